"""What pods tell of their load: asked about once a second while somebody watches, and once for all who do."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ams_common.progress import Load

from ams_gateway.overview.rates import Rates, Sample, add_sample, rates
from ams_gateway.overview.reading import Card, PodFigures
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.upstream import Pools
from ams_gateway.registry.port import Backend, Model, Registry

_POLL_SECONDS = 1.0
_WATCHED_SECONDS = 5.0  # after somebody looked
_FRESH_SECONDS = 2.0
_PATIENCE_SECONDS = 0.8  # of who looks once, for the first answers
_AT_ONCE = 32  # pods that are asked at the same time


class LoadWatch:
    """Asks while `touch` was called lately. `card_of` tells what a pod says of its model, asking it if need be."""

    def __init__(self, registry: Registry, pools: Pools, card_of: Callable[[Model], Awaitable[Card]]) -> None:
        self._registry = registry
        self._pools = pools
        self._card_of = card_of
        self._watched_until = -math.inf
        self._polling: asyncio.Task[None] | None = None
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._asking: dict[Backend, asyncio.Task[None]] = {}
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._loads: dict[Backend, tuple[float, Load]] = {}
        self._samples: dict[Backend, list[Sample]] = {}
        self._cards: dict[str, Card] = {}

    def touch(self) -> None:
        """Somebody looks."""
        self._watched_until = time.monotonic() + _WATCHED_SECONDS
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def fresh(self) -> None:
        """Return when pods were asked a moment ago; those that are slow to answer are left out."""
        self.touch()
        now = time.monotonic()
        backends = [backend for model in self._registry.models() for backend in self._registry.backends(model)]
        if all(backend in self._loads and now - self._loads[backend][0] < _FRESH_SECONDS for backend in backends):
            return
        self._ask()
        tasks = [*self._asking.values(), *self._reading.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE_SECONDS)

    def figures(self, backend: Backend) -> PodFigures:
        """What a pod told lately."""
        now = time.monotonic()
        at, load = self._loads.get(backend, (-math.inf, None))
        if now - at > _WATCHED_SECONDS:
            return PodFigures(backend.id, None, Rates())
        return PodFigures(backend.id, load, rates(self._samples.get(backend, ()), now))

    def card(self, model: Model) -> Card | None:
        return self._cards.get(model.name)

    async def close(self) -> None:
        tasks = [*self._asking.values(), *self._reading.values()]
        if self._polling is not None:
            tasks.append(self._polling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _poll(self) -> None:
        while time.monotonic() < self._watched_until:
            self._ask()
            await asyncio.sleep(_POLL_SECONDS)

    def _ask(self) -> None:
        """Ask every pod that isn't being asked, and forget those that are gone."""
        models = self._registry.models()
        known = set[Backend]()
        for model in models:
            if model.name not in self._reading:
                task = self._reading[model.name] = asyncio.create_task(self._read_card(model))
                task.add_done_callback(lambda _, name=model.name: self._reading.pop(name, None))  # type: ignore[misc]
            for backend in self._registry.backends(model):
                known.add(backend)
                if backend not in self._asking:
                    task = self._asking[backend] = asyncio.create_task(self._read_load(backend))
                    task.add_done_callback(lambda _, of=backend: self._asking.pop(of, None))  # type: ignore[misc]
        names = {model.name for model in models}
        self._cards = {name: card for name, card in self._cards.items() if name in names}
        self._loads = {backend: load for backend, load in self._loads.items() if backend in known}
        self._samples = {backend: samples for backend, samples in self._samples.items() if backend in known}

    async def _read_card(self, model: Model) -> None:
        async with self._room:
            self._cards[model.name] = await self._card_of(model)

    async def _read_load(self, backend: Backend) -> None:
        async with self._room:
            with suppress(PodUnavailable):
                load = await PodClient(self._pools.of(backend)).fetch_json("GET", "/load", Load)
                now = time.monotonic()
                self._loads[backend] = now, load
                if load.generated_tokens is not None and load.prompt_tokens is not None:
                    sample = Sample(now, load.prompt_tokens, load.generated_tokens)
                    self._samples[backend] = add_sample(self._samples.get(backend, ()), sample)
