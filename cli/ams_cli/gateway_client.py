"""How commands talk to a gateway: at its URL, or through the API server of the cluster that it runs in."""

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import aiohttp
import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_cli.gateway_access import GatewayAccess

T = TypeVar("T")

_CONNECT_SECONDS = 10.0
_MOST_BYTES = 64 << 20  # of a report about all models
NOTHING = GatewayAccess()
GATEWAYS = "app.kubernetes.io/part-of=ai-model-server,app.kubernetes.io/component=gateway"


class GatewayError(Exception):
    """No gateway answers, or it refuses; the message is a sentence."""


class GatewayAnswer(Protocol):
    """What of an HTTP answer is used here."""

    status: int

    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> aiohttp.StreamReader: ...
    async def read(self) -> bytes: ...
    def close(self) -> None: ...


class GatewayClient(Protocol):
    where: str

    async def open(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, accept: str = ""
    ) -> GatewayAnswer:
        """The answer, its body still to be read; `accept` is a media type. GatewayError."""


async def get_json(gateway: GatewayClient, path: str, type_: type[T]) -> T:
    """The JSON document at `path`. GatewayError with the gateway's own message when it refuses."""
    try:
        return read_json(await _get(gateway, path), type_, max_bytes=_MOST_BYTES)
    except InvalidJson:
        raise GatewayError(f"{gateway.where}{path} is not AI Model Server's") from None


async def get_text(gateway: GatewayClient, path: str) -> str:
    """The text at `path`. GatewayError with the gateway's own message when it refuses."""
    return (await _get(gateway, path)).decode("utf-8", "replace")


async def _get(gateway: GatewayClient, path: str) -> bytes:
    answer = await gateway.open("GET", path)
    try:
        data = await answer.read()
    except aiohttp.ClientError as error:
        raise GatewayError(f"{gateway.where} closed the connection ({error})") from None
    finally:
        answer.close()
    if answer.status != 200:
        raise GatewayError(refusal(answer, data))
    return data


def error_sentence(status: int, body: bytes) -> str:
    """The sentence of an error's body, in either of its shapes, or of an API server that gets no further."""
    try:
        document = read_json(body, dict[str, Any])
        error = document.get("message") if document.get("kind") == "Status" else document.get("error")
    except InvalidJson:
        error = None
    if isinstance(error, dict):
        error = error.get("message")
    return str(error) if error else f"the gateway answered {status}"


def refusal(answer: GatewayAnswer, body: bytes) -> str:
    """The sentence of an answer that isn't 200, and what to do about it."""
    sentence = error_sentence(answer.status, body)
    if answer.status == 401:
        return f"{sentence.rstrip('.')}. Put a key into AMS_API_KEY or --api-key-file; `ams keys create` makes one."
    after = answer.headers.get("Retry-After", "")
    if answer.status == 429 and after.isdigit() and "ry again" not in sentence:
        return f"{sentence.rstrip('.')}. Try again in {int(after)} s."
    return sentence


def _accept(media_type: str) -> dict[str, str]:
    return {"Accept": media_type} if media_type else {}


class _Direct:
    def __init__(self, url: str, session: aiohttp.ClientSession, access: GatewayAccess) -> None:
        self.where = url.rstrip("/")
        self._session = session
        self._headers = {"Authorization": f"Bearer {access.key}"} if access.key else {}

    async def open(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, accept: str = ""
    ) -> GatewayAnswer:
        data = None if body is None else msgspec.json.encode(body)
        headers = self._headers | ({"Content-Type": "application/json"} if body is not None else {}) | _accept(accept)
        try:
            return await self._session.request(method, self.where + path, data=data, headers=headers)
        except aiohttp.ClientConnectorCertificateError as error:
            raise GatewayError(
                f"{self.where}: its certificate isn't trusted ({error.certificate_error}); "
                "--ca-file names the authority that it is from"
            ) from None
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError) as error:
            raise GatewayError(f"{self.where} doesn't answer ({_why(error)}); is `ams up` running?") from None


def _why(error: Exception) -> str:
    """What went wrong, in the system's words where it has some: `Connection refused`."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(error)


class _Proxied:
    """Through the API server's proxy to a service or a pod: whoever may use that needs no port of the gateway.

    The proxy keeps `Authorization` for itself and passes the other header for keys on.
    """

    def __init__(self, client: Any, namespace: str, target: str, access: GatewayAccess) -> None:
        self.where = f"{namespace}/{target.partition('/')[2]}"
        self._client = client
        self._root = f"/api/v1/namespaces/{namespace}/{target}/proxy"
        self._headers = {"X-API-Key": access.key} if access.key else {}

    async def open(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, accept: str = ""
    ) -> GatewayAnswer:
        from ams_kube.errors import KubeError

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
        given = None if body is None else dict(body)
        try:
            answer: GatewayAnswer = await self._client.open(
                method, self._root + path, body=given, timeout=timeout, headers=self._headers | _accept(accept)
            )
            return answer
        except KubeError as error:
            raise GatewayError(str(error)) from None


def through_proxy(client: Any, namespace: str, target: str, access: GatewayAccess = NOTHING) -> GatewayClient:
    """A gateway behind the API server of `client`; `target` is `services/NAME:PORT` or `pods/NAME:PORT`."""
    return _Proxied(client, namespace, target, access)


@asynccontextmanager
async def at_url(url: str, access: GatewayAccess = NOTHING) -> AsyncIterator[GatewayClient]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
    connector = aiohttp.TCPConnector(ssl=access.tls or True)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        yield _Direct(url, session, access)


@asynccontextmanager
async def in_cluster(namespace: str | None = None, access: GatewayAccess = NOTHING) -> AsyncIterator[GatewayClient]:
    """The gateway that the chart installed, in `namespace` or wherever there is one. GatewayError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.objects import SERVICES

    try:
        async with await Client.connect("ams") as client:
            gateways = [
                each
                for each in await client.list(SERVICES, namespace, labels=GATEWAYS)
                if each.spec.cluster_ip != "None"
            ]
            if not gateways:
                place = f"namespace {namespace}" if namespace else "the cluster"
                raise GatewayError(f"no gateway of AI Model Server in {place}; is the chart installed?")
            tls = any(port.app_protocol == "https" for port in gateways[0].spec.ports)
            target = f"services/{'https:' if tls else ''}{gateways[0].metadata.name}:http"
            yield through_proxy(client, gateways[0].metadata.namespace, target, access)
    except (NoCluster, KubeError) as error:
        raise GatewayError(str(error)) from None
