"""API keys in a Secret of a cluster: read, changed, and written back if nobody else has changed it meanwhile."""

import random
from asyncio import sleep
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ams_common.key_changes import FIRST_KEY_ENTRY, KEYS_ENTRY, holds
from ams_common.keys import InvalidKeys, KeyFile, read_keys, write_keys
from ams_common.labels import KEYS_SECRET
from ams_kube.client import Client, NoCluster
from ams_kube.errors import AlreadyExists, Conflict, KubeError, NotFound
from ams_kube.objects import SECRETS, SERVICES, SecretObject

from ams_cli.key_file import StoreError

_GATEWAYS = "app.kubernetes.io/part-of=ai-model-server,app.kubernetes.io/component=gateway"
_TRIES = 20
_LONGEST_PAUSE_SECONDS = 0.2


class SecretStore:
    """Keys in the entry `keys.json` of a Secret, which is made at the first change if it isn't there."""

    def __init__(self, client: Client, namespace: str, name: str) -> None:
        self.where = f"the Secret {namespace}/{name}"
        self._client = client
        self._namespace = namespace
        self._name = name
        self.made = False
        self.forgot_first_key = False

    async def read(self) -> KeyFile | None:
        """None where there is no Secret. StoreError."""
        secret = await self._get()
        return None if secret is None else self._keys(secret)

    async def change(self, make: Callable[[KeyFile], KeyFile]) -> KeyFile:
        """What `make` makes of the keys, written; it is called again when somebody else was faster. StoreError."""
        for _ in range(_TRIES):
            secret = await self._get()
            before = KeyFile() if secret is None else self._keys(secret)
            after = make(before)
            if secret is not None and after == before:
                return after
            try:
                await (self._make(after) if secret is None else self._write(secret, after))
                return after
            except (Conflict, NotFound) as error:
                if isinstance(error, NotFound) and secret is None:
                    raise StoreError(str(error)) from None  # the namespace
                await sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))
            except KubeError as error:
                raise StoreError(str(error)) from None
        raise StoreError(f"{self.where} is changed by others all the time; try again")

    async def _get(self) -> SecretObject | None:
        try:
            return await self._client.get(SECRETS, self._namespace, self._name)
        except NotFound:
            return None
        except KubeError as error:
            raise StoreError(str(error)) from None

    def _keys(self, secret: SecretObject) -> KeyFile:
        data = secret.entry(KEYS_ENTRY)
        if data is None:
            return KeyFile()
        try:
            return read_keys(data)
        except InvalidKeys as error:
            raise StoreError(f"{KEYS_ENTRY} of {self.where} {error}; it is left as it is") from None

    async def _make(self, keys: KeyFile) -> None:
        body = {
            "metadata": {"name": self._name, "labels": {"app.kubernetes.io/part-of": "ai-model-server"}},
            "type": "Opaque",
            "data": {KEYS_ENTRY: b64encode(write_keys(keys)).decode()},
        }
        try:
            await self._client.create(SECRETS, self._namespace, body)
        except AlreadyExists:
            raise Conflict("made by another one") from None
        self.made = True

    async def _write(self, secret: SecretObject, keys: KeyFile) -> None:
        data: dict[str, Any] = {KEYS_ENTRY: b64encode(write_keys(keys)).decode()}
        first = secret.entry(FIRST_KEY_ENTRY)
        stale = first is not None and not holds(keys, first.decode(errors="replace").strip())
        if stale:
            data[FIRST_KEY_ENTRY] = None  # it opens nothing any more: nobody shall wonder why
        body = {"metadata": {"resourceVersion": secret.metadata.resource_version}, "data": data}
        await self._client.merge(SECRETS, self._namespace, self._name, body)
        self.forgot_first_key = stale


@asynccontextmanager
async def secret_store(namespace: str | None, name: str | None) -> AsyncIterator[SecretStore]:
    """The Secret that is named, else the one that the release's gateways read. StoreError."""
    try:
        async with await Client.connect("ams") as client:
            if name is not None and namespace is not None:
                yield SecretStore(client, namespace, name)
            else:
                place, found = await _of_release(client, namespace)
                yield SecretStore(client, place, name or found)
    except (NoCluster, KubeError) as error:
        raise StoreError(str(error)) from None


async def _of_release(client: Client, namespace: str | None) -> tuple[str, str]:
    """Namespace and name of the Secret that the gateways' Service names in its annotation."""
    services = await client.list(SERVICES, namespace, labels=_GATEWAYS)
    gateways = [each.metadata for each in services if each.spec.cluster_ip != "None"]
    if not gateways:
        place = f"namespace {namespace}" if namespace else "the cluster"
        raise StoreError(f"no gateway of AI Model Server in {place}; is the chart installed?")
    places = sorted({each.namespace for each in gateways})
    if len(gateways) > 1:
        raise StoreError(
            f"there is more than one gateway, in {', '.join(places)}; choose one Secret with -n and --secret"
        )
    [gateway] = gateways
    found = gateway.annotations.get(KEYS_SECRET, "")
    if not found:
        raise StoreError(
            f"the gateways in {gateway.namespace} take requests without a key (gateway.auth.anonymous); "
            "name a Secret with -n and --secret"
        )
    return gateway.namespace, found
