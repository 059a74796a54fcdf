"""ModelDeployments by kopf, in a thread and loop of its own; its handlers only pass events on.

kopf installs signal handlers and cancels what runs on its loop when it ends, so it gets a loop for itself. What it
doesn't report (deletions while the API server was away, anything once it has lost sight of the kind) shows when lists
are compared.
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import kopf
import msgspec
from ams_common.backoff import backoff_seconds
from ams_common.names import API_VERSION, GROUP, PLURAL, VERSION
from ams_common.outside import InvalidJson, read_json
from ams_common.resource.spec import ModelDeployment
from ams_kube.client import Client
from ams_kube.errors import KubeError
from ams_kube.freshness import Freshness
from ams_kube.objects import MODELS, MODELS_METADATA, Metadata

from ams_operator.persistent import keep_running
from ams_operator.watch.cache import Cache

log = logging.getLogger(__name__)

_COMPARE_SECONDS = 60.0
_SETTLE_SECONDS = 1.0
_LATE_SECONDS = 5.0  # an event that still hasn't come will not come
_STEADY_SECONDS = 10.0  # a watch that lasted for longer did not fail
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 5.0


class ModelWatch:
    """Keeps the cache's ModelDeployments. Everything but kopf runs on the loop that `run` is called on."""

    def __init__(self, client: Client, cache: Cache, namespaces: Sequence[str]) -> None:
        self.synced = asyncio.Event()
        self.freshness = Freshness()
        self._client = client
        self._cache = cache
        self._namespaces = list(namespaces)
        self._everywhere: list[str | None] = [*namespaces] or [None]
        self._listed_again = asyncio.Event()
        self._unreadable: dict[str, str] = {}  # key → resource version
        self._stopping = False
        self._stop_kopf = threading.Event()
        self._thread: threading.Thread | None = None
        self._ended = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled: list everything once, then watch by kopf and compare lists now and then."""
        await self._list_first()
        self.synced.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_running("the watch of ModelDeployments", self._watch))
            tasks.create_task(keep_running("comparing lists of ModelDeployments", self._compare))

    def stop(self) -> None:
        """Tell kopf's thread to end; it isn't waited for."""
        self._stopping = True
        self._stop_kopf.set()

    async def _list_first(self) -> None:
        """The resources themselves. Also waits for the API server, and for the CRD, which kopf would not."""
        failures = 0
        while True:
            try:
                for namespace in self._everywhere:
                    async for page in self._client.pages(MODELS, namespace):
                        for raw in page.raw:
                            self._take_raw(raw)
                self.freshness.listed()
                return
            except KubeError as error:
                self.freshness.tried()
                failures += 1
                wait = _wait(failures)
                log.warning("ModelDeployments can't be listed, again in %.1f s: %s", wait, error)
            await asyncio.sleep(wait)

    async def _watch(self) -> None:
        """kopf, again whenever it gives up."""
        loop = asyncio.get_running_loop()
        failures = 0
        while not self._stopping:
            await self._until_known()
            self._ended.clear()
            self._stop_kopf = stop = threading.Event()
            if self._stopping:
                return
            began = time.monotonic()
            self._thread = threading.Thread(target=self._run_kopf, args=(loop, stop), name="kopf", daemon=True)
            self._thread.start()
            await self._ended.wait()
            if self._stopping:
                return
            failures = 1 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            wait = _wait(failures)
            log.warning("the watch of ModelDeployments ended, again in %.1f s", wait)
            await asyncio.sleep(wait)

    async def _until_known(self) -> None:
        """Wait until the API server names the kind. kopf looks once, and would wait for ever without a word."""
        failures = 0
        while True:
            try:
                kinds = read_json(await self._client.request("GET", f"/apis/{API_VERSION}"), _ResourceList)
                if any(each.name == PLURAL for each in kinds.resources):
                    return
                problem = f"{GROUP} has no {PLURAL}"
            except (KubeError, InvalidJson) as error:
                problem = str(error)
            failures += 1
            wait = _wait(failures)
            log.warning("ModelDeployments can't be watched, again in %.1f s: %s", wait, problem)
            await asyncio.sleep(wait)

    async def _compare(self) -> None:
        """Forget what is gone. What kopf should have told and hasn't is taken in here, and kopf is started anew."""
        while True:
            try:
                async with asyncio.timeout(_COMPARE_SECONDS):
                    await self._listed_again.wait()
                await asyncio.sleep(_SETTLE_SECONDS)
            except TimeoutError:
                pass
            self._listed_again.clear()
            since = time.monotonic()
            try:
                present = await self._list_metadata()
                self._cache.forget_vanished({key: each.uid for key, each in present.items()}, since)
                if self._missed(present):
                    await asyncio.sleep(_LATE_SECONDS)
                    await self._catch_up(self._missed(present))
            except KubeError as error:
                log.info("ModelDeployments can't be listed: %s", error)
                self._listed_again.set()  # soon again

    async def _list_metadata(self) -> dict[str, Metadata]:
        present = {}
        self.freshness.tried()
        for namespace in self._everywhere:
            async for page in self._client.pages(MODELS_METADATA, namespace):
                for raw in page.raw:
                    metadata = msgspec.json.decode(raw, type=MODELS_METADATA.type).metadata
                    present[metadata.key] = metadata
        self.freshness.listed()
        return present

    def _missed(self, present: Mapping[str, Metadata]) -> list[str]:
        self._unreadable = {key: version for key, version in self._unreadable.items() if key in present}
        late = self._cache.lags_behind(present)
        return [key for key in late if self._unreadable.get(key) != present[key].resource_version]

    async def _catch_up(self, missed: Collection[str]) -> None:
        if not missed:
            return
        log.warning("the watch of ModelDeployments missed %s: it is started anew", ", ".join(sorted(missed)[:10]))
        await self._list_first()
        self._stop_kopf.set()

    # kopf's thread

    def _run_kopf(self, loop: asyncio.AbstractEventLoop, stop: threading.Event) -> None:
        try:
            kopf.run(
                loop=(own := asyncio.new_event_loop()),
                registry=self._registry(loop),
                settings=_settings(),
                standalone=True,
                namespaces=self._namespaces,
                clusterwide=not self._namespaces,
                stop_flag=stop,
            )
            own.close()
        except Exception as error:
            log.warning("kopf ended: %s", error)
        finally:
            with _ClosedLoop():
                loop.call_soon_threadsafe(self._ended.set)

    def _registry(self, loop: asyncio.AbstractEventLoop) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        def login(**arguments: Any) -> kopf.ConnectionInfo | None:
            if not os.environ.get("KUBECONFIG") and os.environ.get("KUBERNETES_SERVICE_HOST"):
                return kopf.login_with_service_account(**arguments)
            return kopf.login_with_kubeconfig(**arguments)

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        def changed(event: kopf.RawEvent, **_: Any) -> None:
            with _ClosedLoop():
                loop.call_soon_threadsafe(self._deliver, event["type"], event["object"])

        return registry

    # on our loop again

    def _deliver(self, kind: str | None, body: Any) -> None:
        if kind == "DELETED":
            metadata = body["metadata"]
            self._cache.forget_resource(f"{metadata['namespace']}/{metadata['name']}", metadata["uid"])
            return
        if kind is None:  # part of a list: what isn't in it is gone, which kopf doesn't report
            self._listed_again.set()
        self._take(body)

    def _take_raw(self, raw: msgspec.Raw) -> None:
        try:
            self._take(read_json(raw, dict[str, Any]))
        except InvalidJson as error:
            log.warning("a ModelDeployment %s, and is left out", error)

    def _take(self, body: Any) -> None:
        try:
            self._cache.take_resource(msgspec.convert(body, ModelDeployment))
        except (msgspec.ValidationError, RecursionError) as error:
            metadata = body.get("metadata", {})
            key = f"{metadata.get('namespace')}/{metadata.get('name')}"
            self._unreadable[key] = str(metadata.get("resourceVersion"))
            log.warning("%s can't be read: %s", key, error)


class _ResourceName(msgspec.Struct):
    name: str = ""


class _ResourceList(msgspec.Struct):
    """meta/v1's APIResourceList."""

    resources: list[_ResourceName] = []


class _ClosedLoop:
    """Our loop may have ended before kopf's thread has: then nobody wants to know."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        return isinstance(error, RuntimeError)


def _wait(failures: int) -> float:
    return backoff_seconds(failures, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.posting.enabled = False
    settings.watching.chunk_size = 200
    settings.watching.server_timeout = 290
    settings.watching.reconnect_backoff = 0.5
    settings.queueing.idle_timeout = 0.5
    settings.queueing.exit_timeout = 0.5
    settings.networking.error_backoffs = [0.2, 0.5, 1]
    return settings
