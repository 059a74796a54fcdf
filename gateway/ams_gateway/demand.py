"""Measures the demand for each model: requests in flight and on hold, and how long it has been idle."""

import time

from ams_common.demand import DemandReport, ModelDemand

from ams_gateway.broadcast import Broadcast
from ams_gateway.metrics import GatewayMetrics
from ams_gateway.registry.port import Registry


class Demand:
    """Remembers when each model was last used; what is in flight and held now is read from the metrics."""

    def __init__(self, registry: Registry, metrics: GatewayMetrics) -> None:
        self._registry = registry
        self._metrics = metrics
        self._holds = Broadcast()
        self._started = time.monotonic()
        self._last_used: dict[str, float] = {}

    def touch(self, model: str) -> None:
        """A request of this model began or ended."""
        self._last_used[model] = time.monotonic()

    def hold_began(self, model: str) -> None:
        """A request waits for this model: whoever waits for a report gets one now."""
        self.touch(model)
        self._holds.notify()

    async def report(self, since: int, wait_seconds: float) -> DemandReport:
        """The demand, at once if its version isn't `since`, else when the next hold begins or after `wait_seconds`."""
        if wait_seconds > 0:
            await self._holds.changed_since(since, wait_seconds)
        now = time.monotonic()
        models, last_used = {}, {}
        for model in self._registry.models():
            if model.name in self._last_used:
                last_used[model.name] = self._last_used[model.name]
            numbers = self._metrics.of(model.name)
            busy = numbers.in_flight or numbers.held
            idle_seconds = 0.0 if busy else now - last_used.get(model.name, self._started)
            models[model.key or model.name] = ModelDemand(numbers.in_flight, numbers.held, round(idle_seconds, 3))
        self._last_used = last_used
        return DemandReport(self._holds.version, models)
