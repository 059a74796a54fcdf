"""What the gateway has in flight and on hold for each model: what the operator scales by."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from ams_gateway.registry.port import Model


class ModelDemand(msgspec.Struct, frozen=True):
    """Requests of one model. `idle_seconds` is the time since one last began or ended, or since the gateway started."""

    in_flight: int
    held: int
    idle_seconds: float


class DemandReport(msgspec.Struct, frozen=True):
    """`GET /internal/demand`. `version` differs from the last one as soon as a request has to wait for a model."""

    version: int
    models: dict[str, ModelDemand]


class Demand:
    """Counts nothing itself but the time; `held` and `in_flight` are asked for each report."""

    def __init__(
        self,
        models: Callable[[], Iterable[Model]],
        held: Callable[[], Mapping[str, int]],
        in_flight: Callable[[str], int],
    ) -> None:
        self._models = models
        self._held = held
        self._in_flight = in_flight
        self._version = 1
        self._began = asyncio.Event()
        self._started = time.monotonic()
        self._last: dict[str, float] = {}

    def touch(self, model: str) -> None:
        """A request of this model began or ended."""
        self._last[model] = time.monotonic()

    def hold_began(self, model: str) -> None:
        """A request waits for this model: who waits for a report gets one now."""
        self.touch(model)
        self._version += 1
        self._began.set()
        self._began = asyncio.Event()

    async def report(self, since: int, wait_seconds: float) -> DemandReport:
        """The demand, at once if its version isn't `since`, else when the next hold begins or after `wait_seconds`."""
        if since == self._version and wait_seconds > 0:
            try:
                async with asyncio.timeout(wait_seconds):
                    await self._began.wait()
            except TimeoutError:
                pass
        now, held = time.monotonic(), self._held()
        models, last = {}, {}
        for model in self._models():
            if model.name in self._last:
                last[model.name] = self._last[model.name]
            in_flight, waiting = self._in_flight(model.name), held.get(model.name, 0)
            idle = 0.0 if in_flight or waiting else now - self._last.get(model.name, self._started)
            models[model.labels.get("key", model.name)] = ModelDemand(in_flight, waiting, round(idle, 3))
        self._last = last
        return DemandReport(self._version, models)


def query_number(query: Mapping[str, str], name: str, highest: float) -> float:
    """A number of the query string between 0 and `highest`; 0 if it is missing or none."""
    given: Any = query.get(name, "0")
    try:
        return min(max(float(given), 0.0), highest)
    except ValueError:
        return 0.0
