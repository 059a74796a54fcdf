"""LeaderWorkerSets and the StatefulSets of their pods. A cluster may lack them, get them later, and lose them."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from ams_common import labels
from ams_kube.client import Client
from ams_kube.errors import Forbidden, KubeError, NotFound
from ams_kube.freshness import Freshness
from ams_kube.kinds import Kind
from ams_kube.objects import LEADER_WORKER_SETS, STATEFUL_SETS, LeaderWorkerSet, MetadataOnly
from ams_kube.reflector import Reflector

from ams_operator.decide.observed import Availability
from ams_operator.watch.cache import Cache

log = logging.getLogger(__name__)

_LOOK_SECONDS = 15.0  # until it is looked again whether the cluster has the kind
_UNAVAILABLE_SECONDS = 2.0
_SELECTORS: dict[str, str] = {LEADER_WORKER_SETS.name: labels.MANAGED_SELECTOR, STATEFUL_SETS.name: labels.SET_NAME}


class GroupWatch:
    """Keeps the cache's LeaderWorkerSets. `changed` is called when the cluster gets the kind or loses it."""

    def __init__(
        self, client: Client, cache: Cache, namespaces: Sequence[str | None], changed: Callable[[], None]
    ) -> None:
        self.known = asyncio.Event()  # all were listed once, or there are none to list
        self.availability: Availability = "absent"
        self._client = client
        self._cache = cache
        self._namespaces = namespaces
        self._changed = changed
        self._reflectors: list[Reflector[Any]] = []
        self._keys: set[tuple[str, str]] = set()  # (kind, key) of all that the cache was given

    def freshness(self) -> list[tuple[str, Freshness]]:
        """Of the watches that there are."""
        return [(each.kind, each.freshness) for each in self._reflectors]

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            availability = await self._look()
            if availability == "served":
                await self._watch()
            elif availability is not None:
                self._set(availability)
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                await asyncio.sleep(_UNAVAILABLE_SECONDS)

    async def _look(self) -> Availability | None:
        """None where the API server doesn't say."""
        try:
            await self._client.request("GET", f"/apis/{LEADER_WORKER_SETS.api_version}")
            for kind in (LEADER_WORKER_SETS, STATEFUL_SETS):
                for namespace in self._namespaces:
                    await self._client.request("GET", kind.path(namespace), {"limit": "1"})
        except NotFound:
            return "absent"
        except Forbidden as error:
            if self.availability != "forbidden":
                log.info("LeaderWorkerSets can't be made: %s", error)
            return "forbidden"
        except KubeError as error:
            log.info("it isn't known whether there are LeaderWorkerSets: %s", error)
            return None
        return "served"

    async def _watch(self) -> None:
        """Until the cluster has them no more."""
        self._reflectors = [
            self._reflector(kind, namespace)
            for kind in (LEADER_WORKER_SETS, STATEFUL_SETS)
            for namespace in self._namespaces
        ]
        tasks = [asyncio.create_task(each.run()) for each in self._reflectors]
        availability: Availability | None = "served"
        try:
            while availability in ("served", None):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_SECONDS):
                        for each in self._reflectors:
                            await each.synced.wait()
                        self._set("served")
                        await asyncio.Event().wait()  # until it is time to look again
                availability = await self._look()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._reflectors = []
        for kind, key in list(self._keys):
            self._forget(kind, key)
        if availability is not None:
            self._set(availability)

    def _set(self, availability: Availability) -> None:
        before, self.availability = self.availability, availability
        if before != availability and self.known.is_set():
            log.info("LeaderWorkerSets are %s now", availability)
        self.known.set()
        if before != availability:
            self._changed()

    def _reflector(self, kind: Kind[Any], namespace: str | None) -> Reflector[Any]:
        def take(given: LeaderWorkerSet | MetadataOnly) -> None:
            self._keys.add((kind.name, given.metadata.key))
            if isinstance(given, LeaderWorkerSet):
                self._cache.take_child(kind.name, given)
            else:
                self._cache.take_stateful_set(given)

        def forget(key: str) -> None:
            self._forget(kind.name, key)

        return Reflector(self._client, kind, take, forget, namespace=namespace, labels=_SELECTORS[kind.name])

    def _forget(self, kind: str, key: str) -> None:
        self._keys.discard((kind, key))
        if kind == LEADER_WORKER_SETS.name:
            self._cache.forget_child(kind, key)
        else:
            self._cache.forget_stateful_set(key)
