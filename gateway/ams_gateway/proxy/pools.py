"""A pool for each pod, made at its first request and dropped when the pod is gone."""

import asyncio

from ams_gateway.proxy.upstream import Pool
from ams_gateway.registry.port import Backend, Registry

_TIDY_SECONDS = 10.0


class Pools:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pools: dict[Backend, Pool] = {}

    def of(self, backend: Backend) -> Pool:
        if (pool := self._pools.get(backend)) is None:
            pool = self._pools[backend] = Pool(backend.address)
        return pool

    async def keep_tidy(self) -> None:
        """Close what is idle or leads to pods that are gone, until cancelled."""
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            there = {backend for model in self._registry.models() for backend in self._registry.backends(model)}
            for backend, pool in list(self._pools.items()):
                gone = backend not in there
                if not pool.close_idle(0 if gone else None) and gone and not backend.in_flight:
                    del self._pools[backend]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close_idle(0)
        self._pools.clear()
