"""Feeds each model's demand to the autoscaling, and enqueues the models that are to have another number of pods."""

import logging
import time
from collections.abc import Callable

from ams_operator.decide.replicas import serving_replicas
from ams_operator.decide.scaling import LoadScaling
from ams_operator.metrics import Metrics
from ams_operator.watch.cache import Cache
from ams_operator.watch.demand import DemandReader

log = logging.getLogger(__name__)
_EVERY_SECONDS = 0.9  # a sample a second is enough, unless a request waits for a model without pods


class Scaler:
    """`changed` gets the key of a model whose replicas are to be others than before."""

    def __init__(self, cache: Cache, reader: DemandReader, changed: Callable[[str], None], metrics: Metrics) -> None:
        self._cache = cache
        self._reader = reader
        self._changed = changed
        self._metrics = metrics
        self._scaling = LoadScaling()
        self._last = 0.0

    def replicas(self, key: str) -> int | None:
        """What the load asks for; None while no gateway has reported."""
        return self._scaling.replicas(key)

    def update(self) -> None:
        """A gateway reported its demand. All models are looked at each second, those that requests wait for at once."""
        now = time.monotonic()
        if now - self._last >= _EVERY_SECONDS:
            self._last = now
            keys = self._cache.keys()
            self._scaling.forget_others(keys)
            for key in keys:
                self._update(key, now)
            return
        for key in self._reader.busy():
            if self._reader.of(key).held and self.replicas(key) in (None, 0):
                self._update(key, now)

    def _update(self, key: str, now: float) -> None:
        resource = self._cache.get(key).resource
        if resource is None or (limits := resource.spec.autoscaling) is None:
            self._scaling.forget(key)
            return
        demand = self._reader.of(key)
        running = serving_replicas(self._cache.get(key).children.get("Deployment"))
        running = limits.min_replicas if running is None else running
        before = self.replicas(key)
        before = running if before is None else before
        after = self._scaling.update(key, demand, limits, now, running=running, complete=self._reader.complete)
        if after != before:
            self._metrics.decisions.labels("up" if after > before else "down").inc()
            log.info(
                "%s: %d → %d replicas (%d in flight, %d held)", key, before, after, demand.in_flight, demand.held
            )  # fmt: skip
            self._changed(key)
