"""Requests to an API server: typed in, typed out, tried again where that may help.

`kubernetes.aio` reads the configuration (KUBECONFIG, else the pod's service account) and carries the requests; its
object models are not used: they take 18 times the CPU and hundreds of MiB at some thousand objects.
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlencode

import aiohttp
import msgspec
from ams_common.backoff import backoff_seconds
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config

from ams_kube.errors import Conflict, Invalid, KubeError, Unavailable, error_of_answer
from ams_kube.kinds import Kind, T

_TRIES = 4
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.1, 2.0
_TIMEOUT_SECONDS = 15.0
_PAGE = 500
_TURNS_TO_CLOSE = 10  # of the loop, until a connection that was given up while it began is closed
_HOME = os.path.expanduser("~/.kube/config")

S = TypeVar("S")
Body = Mapping[str, Any] | msgspec.Struct


class NoCluster(Exception):
    """No configuration names a cluster; the message says what was looked for."""


class _PageMetadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _RawPage(msgspec.Struct):
    metadata: _PageMetadata = _PageMetadata()
    items: list[msgspec.Raw] = []


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some objects of a list, and the version of the whole list. Each item still is JSON: see `Kind.type`."""

    raw: list[msgspec.Raw]
    resource_version: str


class Client:
    """One API server. Methods raise the types of `ams_kube.errors`."""

    def __init__(self, configuration: Configuration, user_agent: str) -> None:
        self._configuration = configuration
        self._api = ApiClient(configuration)
        self._user_agent = user_agent
        self.requests = 0  # sent so far, watches and tries included

    @classmethod
    async def connect(cls, user_agent: str, *, kubeconfig: str = "", connections: int = 64) -> Self:
        """From `kubeconfig`, else $KUBECONFIG, else the pod's service account, else ~/.kube/config. NoCluster."""
        configuration = Configuration()
        configuration.connection_pool_maxsize = connections
        configuration.retries = None
        path = kubeconfig or os.environ.get("KUBECONFIG", "")
        try:
            if not path and os.environ.get("KUBERNETES_SERVICE_HOST"):
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            else:
                await load_kube_config(  # type: ignore[no-untyped-call]
                    config_file=path or _HOME, client_configuration=configuration, persist_config=False
                )
        except (ConfigException, OSError) as error:
            where = path or "KUBECONFIG, the pod's service account and ~/.kube/config"
            raise NoCluster(f"{where}: no cluster is configured ({error})") from None
        return cls(configuration, user_agent)

    async def close(self) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]
        for _ in range(_TURNS_TO_CLOSE):
            await asyncio.sleep(0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @property
    def server(self) -> str:
        return str(self._configuration.host)

    # objects

    async def get(self, kind: Kind[T], namespace: str | None, name: str) -> T:
        answer = await self.request("GET", kind.path(namespace, name))
        return _decoded(answer, kind.type)

    async def pages(
        self, kind: Kind[T], namespace: str | None = None, *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Page[T]]:
        """All objects in pages of 500."""
        query = _query(labelSelector=labels, fieldSelector=fields, limit=str(_PAGE))
        while True:
            answer = await self.request("GET", kind.path(namespace), query, seconds=60.0)
            page = _decoded(answer, _RawPage)
            del answer
            yield Page(page.items, page.metadata.resource_version)
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    async def list(self, kind: Kind[T], namespace: str | None = None, *, labels: str = "", fields: str = "") -> list[T]:
        return [
            _decoded(raw, kind.type)
            async for page in self.pages(kind, namespace, labels=labels, fields=fields)
            for raw in page.raw
        ]

    async def apply(
        self, kind: Kind[T], namespace: str | None, name: str, body: Body, *, manager: str, subresource: str = ""
    ) -> T:
        """Server-side apply, which takes over the fields that it names.

        With `metadata.uid` in the body: Conflict where the object of that name is another one, or isn't there.
        """
        document = {"apiVersion": kind.api_version, "kind": kind.name, **_builtins(body)}
        document["metadata"] = {**document.get("metadata", {}), "name": name}
        try:
            answer = await self.request(
                "PATCH",
                kind.path(namespace, name, subresource),
                {"fieldManager": manager, "force": "true"},
                body=document,
                content_type="application/apply-patch+yaml",
            )
        except Invalid as error:
            if "metadata.uid" in error.message:  # said so where the object is there, as a conflict where it isn't
                raise Conflict(error.message, status=error.status, reason=error.reason) from None
            raise
        return _decoded(answer, kind.type)

    async def create(self, kind: Kind[T], namespace: str | None, body: Body) -> T:
        document = {"apiVersion": kind.api_version, "kind": kind.name, **_builtins(body)}
        answer = await self.request("POST", kind.path(namespace), body=document)
        return _decoded(answer, kind.type)

    async def replace(self, kind: Kind[T], namespace: str | None, name: str, body: Body) -> T:
        """PUT; Conflict where `metadata.resourceVersion` isn't the object's any more."""
        document = {"apiVersion": kind.api_version, "kind": kind.name, **_builtins(body)}
        answer = await self.request("PUT", kind.path(namespace, name), body=document)
        return _decoded(answer, kind.type)

    async def merge(self, kind: Kind[T], namespace: str | None, name: str, body: Body, subresource: str = "") -> T:
        """JSON merge patch: null removes a field."""
        answer = await self.request(
            "PATCH",
            kind.path(namespace, name, subresource),
            body=_builtins(body),
            content_type="application/merge-patch+json",
        )
        return _decoded(answer, kind.type)

    async def delete(
        self,
        kind: Kind[T],
        namespace: str | None,
        name: str,
        *,
        uid: str | None = None,
    ) -> None:
        """Conflict where `uid` is given and the object of that name is another one."""
        body: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            body["preconditions"] = {"uid": uid}
        await self.request("DELETE", kind.path(namespace, name), body=body)

    # requests

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float = _TIMEOUT_SECONDS,
    ) -> bytes:
        """The answer's body. What may pass is tried again, `seconds` each time; a POST whose answer got lost is not."""
        for attempt in range(1, _TRIES + 1):
            try:
                return await self._once(method, path, query, body, content_type, seconds)
            except Unavailable as error:
                if attempt == _TRIES or (method == "POST" and error.status == 0):
                    raise
                wait = backoff_seconds(
                    attempt, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS
                )
                await asyncio.sleep(max(wait, min(error.retry_after or 0.0, _LONGEST_WAIT_SECONDS)))
        raise AssertionError("unreachable")

    async def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: dict[str, Any] | None,
        content_type: str,
        seconds: float,
    ) -> bytes:
        timeout = aiohttp.ClientTimeout(total=seconds)
        response = await self.open(method, path, query, body=body, content_type=content_type, timeout=timeout)
        try:
            answer = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _no_answer(self.server, error) from None
        if response.status >= 300:
            raise error_of_answer(response.status, answer, response.headers.get("Retry-After"))
        return answer

    async def open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: dict[str, Any] | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109
    ) -> aiohttp.ClientResponse:
        """The answer with its body still to be read, whatever its status. Unavailable if there is none."""
        given = headers or {}
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": self._user_agent, **given}
        self.requests += 1
        try:
            await self._api.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            response = await self._api.call_api(
                method,
                f"{self._configuration.host}{path}{'?' + urlencode(query) if query else ''}",
                header_params=headers,
                body=body,
                _request_timeout=timeout,
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _no_answer(self.server, error) from None
        answer: aiohttp.ClientResponse = response.response
        return answer


def _no_answer(server: str, error: Exception) -> KubeError:
    return Unavailable(f"{server} doesn't answer ({str(error) or type(error).__name__})")


def _decoded(answer: bytes | msgspec.Raw, type_: type[S]) -> S:
    """Pages of objects are large, so that nothing is counted here. KubeError where it is no such object."""
    try:
        return msgspec.json.decode(answer, type=type_)
    except (ValueError, RecursionError) as error:
        raise KubeError(f"an answer of the API server can't be read ({str(error)[:300]})") from None


def _builtins(body: Body) -> dict[str, Any]:
    built: dict[str, Any] = msgspec.to_builtins(body)
    return built


def _query(**given: str) -> dict[str, str]:
    return {name: value for name, value in given.items() if value}
