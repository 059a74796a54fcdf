"""Replicas by load, as a table: what was seen, what is decided."""

from typing import Any

import pytest
from ams_common.resource.spec import AutoscalingSpec
from ams_common.scaling import Sample, Samples, ScalerState, decide
from hypothesis import given
from hypothesis import strategies as st

NOW = 1000.0


def limits(**given: Any) -> AutoscalingSpec:
    return AutoscalingSpec(**{"min_replicas": 0, "max_replicas": 10, "target_concurrency": 4, **given})


def steady(in_flight: int, seconds: int = 60, held: int = 0) -> list[Sample]:
    return [Sample(NOW - seconds + second, in_flight, held) for second in range(seconds + 1)]


# words: (series, idle seconds, complete, replicas, limits, decided)
CASES: dict[str, tuple[list[Sample], float | None, bool, int, AutoscalingSpec, int]] = {
    "nothing heard": ([], None, False, 2, limits(), 2),
    "nothing heard, but fewer than the least": ([], None, False, 0, limits(min_replicas=1), 1),
    "asleep": (steady(0), 1000.0, True, 0, limits(), 0),
    "one waits": ([Sample(NOW, 0, 1)], 0.0, True, 0, limits(), 1),
    "one waits, and a gateway is silent": ([Sample(NOW, 0, 1)], 0.0, False, 0, limits(), 1),
    "many wait": ([Sample(NOW, 0, 20)], 0.0, True, 0, limits(), 5),
    "many wait for one": ([Sample(NOW, 0, 20)], 0.0, True, 0, limits(max_replicas=1), 1),
    "as many as it should have": (steady(4), 0.0, True, 1, limits(), 1),
    "one more": (steady(5), 0.0, True, 1, limits(), 2),
    "a burst": ([*steady(1)[:-6], *(Sample(NOW - 5 + each, 16, 0) for each in range(6))], 0.0, True, 1, limits(), 4),
    "less for a whole window": (steady(4), 0.0, True, 3, limits(), 1),
    "less, for a short time": (steady(4, seconds=10), 0.0, True, 3, limits(), 3),
    "less, but a gateway is silent": (steady(4), 0.0, False, 3, limits(), 3),
    "idle for long enough": (steady(0), 300.0, True, 1, limits(), 0),
    "idle, not long enough": (steady(0), 299.0, True, 1, limits(), 1),
    "idle for an unknown time": (steady(0), None, True, 1, limits(), 1),
    "idle, but a gateway is silent": (steady(0), 300.0, False, 1, limits(), 1),
    "idle down to the least": (steady(0), 300.0, True, 3, limits(min_replicas=2), 2),
    "in flight now, idle before": ([*steady(0)[:-1], Sample(NOW, 1, 0)], 0.0, True, 1, limits(), 1),
    "never below what is in flight": ([*steady(0)[:-1], Sample(NOW, 8, 0)], 0.0, True, 2, limits(), 2),
}


@pytest.mark.parametrize("words", CASES)
def test_what_is_decided(words: str) -> None:
    series, idle, complete, replicas, given, decided = CASES[words]
    wanted, state = decide(Samples(series, idle, complete), given, ScalerState(replicas), NOW)
    assert wanted == decided
    assert state.replicas == decided


def test_a_burst_is_not_followed_down_before_the_stable_window_is_over() -> None:
    burst = [*steady(1)[:-6], *(Sample(NOW - 5 + each, 16, 0) for each in range(6))]
    wanted, state = decide(Samples(burst, 0.0, True), limits(), ScalerState(1), NOW)
    assert (wanted, state.panic_until) == (4, NOW + 60)
    later = [*burst, Sample(NOW + 10, 0, 0)]
    assert decide(Samples(later, 0.0, True), limits(), state, NOW + 10)[0] == 4


@given(
    series=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=70),
    replicas=st.integers(0, 12),
    idle=st.one_of(st.none(), st.floats(0, 1000)),
    complete=st.booleans(),
    least=st.integers(0, 3),
)
def test_bounds_hold_whatever_was_seen(
    series: list[tuple[int, int]], replicas: int, idle: float | None, complete: bool, least: int
) -> None:
    given = limits(min_replicas=least, max_replicas=6)
    samples = [Sample(NOW - len(series) + 1 + at, *each) for at, each in enumerate(series)]
    wanted, _ = decide(Samples(samples, idle, complete), given, ScalerState(replicas), NOW)
    assert least <= wanted <= 6
    last = samples[-1]
    if last.concurrency:
        assert wanted >= 1
    assert wanted >= min(6, -(-last.in_flight // given.target_concurrency))
    if not complete:
        assert wanted >= min(replicas, 6), "what isn't known may be load"
