"""The nodes, as far as it matters which of them a model fits: labels, taints and what they can allocate."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from ams_kube.client import Client
from ams_kube.errors import Forbidden, KubeError
from ams_kube.freshness import Freshness
from ams_kube.objects import NODES, Node
from ams_kube.reflector import Reflector

log = logging.getLogger(__name__)

_FORBIDDEN_SECONDS = 300.0  # until the role is tried again
_UNAVAILABLE_SECONDS = 2.0


class NodeWatch:
    """`changed` is called when a node appears, goes, or has other labels, taints or sizes."""

    def __init__(self, client: Client, changed: Callable[[], None]) -> None:
        self.known = asyncio.Event()  # all were listed once, or may not be
        self._client = client
        self._changed = changed
        self._nodes: dict[str, Node] = {}
        self._allowed = False
        self.freshness: Freshness | None = None  # None where nodes aren't watched

    @property
    def nodes(self) -> Sequence[Node] | None:
        """None where the role doesn't allow to list them."""
        return tuple(self._nodes.values()) if self._allowed else None

    async def run(self) -> None:
        """Until cancelled."""
        await self._allow()
        reflector = Reflector(self._client, NODES, self._take, self._forget)
        self.freshness = reflector.freshness
        watch = asyncio.create_task(reflector.run())
        try:
            await reflector.synced.wait()
            self._allowed = True
            self.known.set()
            self._changed()
            await watch
        finally:
            self.freshness = None
            watch.cancel()

    async def _allow(self) -> None:
        """Wait until nodes may be listed; without the right to, everything goes on and memory isn't checked."""
        while True:
            try:
                async for _ in self._client.pages(NODES):
                    break
                return
            except Forbidden as error:
                if not self.known.is_set():
                    log.info("nodes may not be listed, so that the memory of GPUs isn't known: %s", error)
                self.known.set()
                await asyncio.sleep(_FORBIDDEN_SECONDS)
            except KubeError as error:
                log.info("nodes can't be listed: %s", error)
                await asyncio.sleep(_UNAVAILABLE_SECONDS)

    def _take(self, node: Node) -> None:
        before = self._nodes.get(node.metadata.name)
        self._nodes[node.metadata.name] = node
        if self._allowed and before != node:
            self._changed()

    def _forget(self, key: str) -> None:
        self._nodes.pop(key.rpartition("/")[2], None)
        if self._allowed:
            self._changed()
