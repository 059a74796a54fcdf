"""How many replicas a model's load asks for. Pure: samples and time come in, a number goes out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from ams_common.resource.spec import AutoscalingSpec


@dataclass(frozen=True, slots=True)
class Sample:
    """Requests of all gateways at one moment: at pods, and waiting for a pod."""

    at: float
    in_flight: int
    held: int

    @property
    def concurrency(self) -> int:
        return self.in_flight + self.held


@dataclass(frozen=True, slots=True)
class Samples:
    """`series` covers the stable window, oldest first. `idle_seconds`: since the last request, None if not known.

    `complete` is whether every gateway was heard lately: what one of them didn't tell may be load.
    """

    series: Sequence[Sample] = ()
    idle_seconds: float | None = None
    complete: bool = False


@dataclass(frozen=True, slots=True)
class ScalerState:
    replicas: int
    panic_until: float = 0.0


def decide(samples: Samples, limits: AutoscalingSpec, state: ScalerState, now: float) -> tuple[int, ScalerState]:
    """(replicas, next state).

    Up at once when requests wait for a model without pods; otherwise by the average concurrency over the stable
    window, and over the panic window when that asks for at least twice as much. Down only with whole knowledge, never
    below what is in flight, and to zero only after `idle_seconds` without a request.
    """
    latest = samples.series[-1] if samples.series else None
    if latest is None:
        wanted = _within(state.replicas, limits)
        return wanted, replace(state, replicas=wanted)
    if not latest.concurrency and _is_idle(samples, limits):
        return 0, replace(state, replicas=0)
    stable = _pods(_mean(samples.series, now - limits.stable_window_seconds), limits)
    panic = _pods(_mean(samples.series, now - limits.panic_window_seconds), limits)
    if panic >= 2 * max(1, state.replicas):
        state = replace(state, panic_until=now + limits.stable_window_seconds)
    wanted = max(stable, panic, state.replicas) if now < state.panic_until else stable
    wanted = max(wanted, _pods(latest.in_flight, limits), 1 if latest.concurrency else 0)
    if wanted < state.replicas and not _may_shrink(wanted, samples, limits, now):
        wanted = state.replicas
    wanted = _within(wanted, limits)
    return wanted, replace(state, replicas=wanted)


def _may_shrink(wanted: int, samples: Samples, limits: AutoscalingSpec, now: float) -> bool:
    if not samples.complete:
        return False
    if wanted == 0 and limits.min_replicas == 0:
        return _is_idle(samples, limits)
    return now - samples.series[0].at >= 0.9 * limits.stable_window_seconds


def _is_idle(samples: Samples, limits: AutoscalingSpec) -> bool:
    """Whether the model may go to zero: what the windows still remember doesn't hold it."""
    if limits.min_replicas > 0 or not samples.complete or samples.idle_seconds is None:
        return False
    return samples.idle_seconds >= limits.idle_seconds


def _within(replicas: int, limits: AutoscalingSpec) -> int:
    return min(max(replicas, limits.min_replicas), limits.max_replicas)


def _mean(series: Sequence[Sample], since: float) -> float:
    window = [sample.concurrency for sample in series if sample.at >= since] or [series[-1].concurrency]
    return sum(window) / len(window)


def _pods(concurrency: float, limits: AutoscalingSpec) -> int:
    return ceil(concurrency / limits.target_concurrency)
