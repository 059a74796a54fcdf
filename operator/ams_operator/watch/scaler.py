"""Keeps the samples of each model's load and the decisions made of them."""

import logging
import time
from collections import deque
from collections.abc import Callable

from ams_common.resource.spec import AutoscalingSpec
from ams_common.scaling import Sample, Samples, ScalerState, decide
from ams_kube.objects import Deployment

from ams_operator.decide.children.kinds import ANNOTATION_PREFETCH
from ams_operator.metrics import Metrics
from ams_operator.watch.cache import Cache
from ams_operator.watch.demand import DemandReader, ModelDemand

log = logging.getLogger(__name__)
_EVERY_SECONDS = 0.9  # a sample a second is enough, unless a request waits for a model without pods


class Scaler:
    """`changed` gets the key of a model whose replicas are to be others than before."""

    def __init__(self, cache: Cache, reader: DemandReader, changed: Callable[[str], None], metrics: Metrics) -> None:
        self._cache = cache
        self._reader = reader
        self._changed = changed
        self._metrics = metrics
        self._states: dict[str, ScalerState] = {}
        self._series: dict[str, deque[Sample]] = {}
        self._last = 0.0

    def replicas(self, key: str) -> int | None:
        """What the load asks for; None while no gateway was heard."""
        state = self._states.get(key)
        return state.replicas if state is not None else None

    def heard(self) -> None:
        """A gateway told its demand: decide, for all models each second, and at once for those that are waited for."""
        now = time.monotonic()
        if now - self._last >= _EVERY_SECONDS:
            self._last = now
            keys = self._cache.keys()
            for key in self._states.keys() - set(keys):
                del self._states[key]
                self._series.pop(key, None)
            for key in keys:
                self._decide(key, now)
            return
        for key in self._reader.busy():
            if self._reader.of(key).held and self.replicas(key) in (None, 0):
                self._decide(key, now)

    def _decide(self, key: str, now: float) -> None:
        resource = self._cache.get(key).resource
        if resource is None or (limits := resource.spec.autoscaling) is None:
            self._states.pop(key, None)
            return
        demand = self._reader.of(key)
        state = self._states.get(key) or ScalerState(self._present(key, limits))
        if not state.replicas and not (demand.in_flight or demand.held) and key not in self._series:
            self._states[key] = state  # asleep: nothing to average
            if state.replicas < limits.min_replicas:
                self._states[key] = ScalerState(limits.min_replicas)
            return
        samples = Samples(self._sample(key, demand, limits, now), demand.idle_seconds, self._reader.complete)
        wanted, after = decide(samples, limits, state, now)
        self._states[key] = after
        if wanted != state.replicas:
            self._metrics.decisions.labels("up" if wanted > state.replicas else "down").inc()
            log.info(
                "%s: %d → %d replicas (%d in flight, %d held)",
                key, state.replicas, wanted, demand.in_flight, demand.held,
            )  # fmt: skip
            self._changed(key)

    def _sample(self, key: str, demand: ModelDemand, limits: AutoscalingSpec, now: float) -> deque[Sample]:
        series = self._series.setdefault(key, deque())
        series.append(Sample(now, demand.in_flight, demand.held))
        while series[0].at < now - limits.stable_window_seconds:
            series.popleft()
        if not any(sample.concurrency for sample in series) and not self.replicas(key):
            del self._series[key]  # it sleeps
        return series

    def _present(self, key: str, limits: AutoscalingSpec) -> int:
        """Where to begin: with the pods that are there."""
        child = self._cache.get(key).children.get("Deployment")
        if not isinstance(child, Deployment) or child.metadata.annotations.get(ANNOTATION_PREFETCH) == "true":
            return limits.min_replicas
        return child.spec.replicas
