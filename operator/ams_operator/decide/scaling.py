"""How many pods each model's load asks for, from the samples of its demand. Pure: demand and time come in."""

from collections import deque
from collections.abc import Collection

from ams_common.demand import ModelDemand
from ams_common.resource.spec import AutoscalingSpec
from ams_common.scaling import Sample, Samples, ScalerState, decide


class LoadScaling:
    """The state of each model's autoscaling, by key. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._states: dict[str, ScalerState] = {}
        self._series: dict[str, deque[Sample]] = {}

    def replicas(self, key: str) -> int | None:
        """What the load asks for; None while no demand was reported."""
        state = self._states.get(key)
        return state.replicas if state is not None else None

    def forget(self, key: str) -> None:
        self._states.pop(key, None)
        self._series.pop(key, None)

    def forget_others(self, keys: Collection[str]) -> None:
        for key in self._states.keys() - set(keys):
            self.forget(key)

    def update(
        self, key: str, demand: ModelDemand, limits: AutoscalingSpec, now: float, *, running: int, complete: bool
    ) -> int:
        """Take in a sample; the replicas from now on.

        `running` is how many pods there are, with which a model begins; `complete`: every gateway reported.
        """
        state = self._states.get(key) or ScalerState(running)
        asleep = not state.replicas and not (demand.in_flight or demand.held) and key not in self._series
        if asleep:  # nothing to average
            self._states[key] = ScalerState(limits.min_replicas) if limits.min_replicas else state
            return self._states[key].replicas
        samples = Samples(self._sampled(key, demand, limits, now), demand.idle_seconds, complete)
        replicas, self._states[key] = decide(samples, limits, state, now)
        return replicas

    def _sampled(self, key: str, demand: ModelDemand, limits: AutoscalingSpec, now: float) -> deque[Sample]:
        series = self._series.setdefault(key, deque())
        series.append(Sample(now, demand.in_flight, demand.held))
        while series[0].at < now - limits.stable_window_seconds:
            series.popleft()
        if not any(sample.concurrency for sample in series) and not self.replicas(key):
            del self._series[key]  # it falls asleep
        return series
