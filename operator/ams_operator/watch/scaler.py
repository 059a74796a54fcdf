"""Feeds each model's demand to the autoscaling, and enqueues the models that are to have another number of pods."""

import logging
import time
from collections.abc import Callable

from ams_common.demand import ModelDemand
from ams_common.resource.spec import AutoscalingSpec
from ams_common.timeline import Facts

from ams_operator.decide.replicas import serving_replicas
from ams_operator.decide.scaling import LoadScaling
from ams_operator.decisions import DecisionBook
from ams_operator.metrics import Metrics
from ams_operator.watch.cache import Cache
from ams_operator.watch.demand import DemandReader

log = logging.getLogger(__name__)
_EVERY_SECONDS = 0.9  # a sample a second is enough, unless a request waits for a model without pods


class Scaler:
    """`changed` gets the key of a model whose replicas are to be others than before."""

    def __init__(
        self,
        cache: Cache,
        reader: DemandReader,
        changed: Callable[[str], None],
        metrics: Metrics,
        decisions: DecisionBook | None = None,
    ) -> None:
        self._decisions = decisions or DecisionBook()
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
        running = serving_replicas(self._cache.get(key).workload)
        running = limits.min_replicas if running is None else running
        before = self.replicas(key)
        before = running if before is None else before
        after = self._scaling.update(key, demand, limits, now, running=running, complete=self._reader.complete)
        self._tell(key, before, after, demand, limits)
        if after != before:
            self._metrics.decisions.labels("up" if after > before else "down").inc()
            log.info(
                "%s: %d → %d replicas (%d in flight, %d held)", key, before, after, demand.in_flight, demand.held
            )  # fmt: skip
            self._changed(key)

    def _tell(self, key: str, before: int, after: int, demand: ModelDemand, limits: AutoscalingSpec) -> None:
        wanted = (demand.in_flight + demand.held) / limits.target_concurrency
        at_most = after == before == limits.max_replicas and wanted > after
        if after == before and not at_most:
            return
        facts: Facts = {
            "in_flight": demand.in_flight,
            "held": demand.held,
            "target_concurrency": limits.target_concurrency,
            "min_replicas": limits.min_replicas,
            "max_replicas": limits.max_replicas,
            "every_gateway_reported": self._reader.complete,
        }
        sentence = (
            f"stays at {after} replicas, its maximum, though requests ask for more"
            if at_most
            else f"{before} to {after} replicas, for {demand.in_flight} requests in flight and {demand.held} held"
        )
        self._decisions.note(key, "scale", sentence, time.time(), facts)
