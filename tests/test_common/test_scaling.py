"""How many replicas a model gets, by its load."""

import pytest
from ams_common.resource.spec import AutoscalingSpec
from ams_common.scaling import Sample, Samples, ScalerState, decide

LIMITS = AutoscalingSpec(min_replicas=0, max_replicas=5, target_concurrency=4, idle_seconds=30)
NOW = 1000.0


def series(*concurrency: int, held: int = 0) -> tuple[Sample, ...]:
    """A sample a second, the last one now; `held` only in the last."""
    last = len(concurrency) - 1
    return tuple(
        Sample(NOW - last + index, count, held if index == last else 0) for index, count in enumerate(concurrency)
    )


@pytest.mark.parametrize(
    ("samples", "replicas", "wanted"),
    [
        (Samples(series(0, held=1), 0.0, True), 0, 1),  # somebody waits: at once
        (Samples(series(0, held=1), 0.0, False), 0, 1),  # also where a gateway wasn't heard
        (Samples((), None, False), 2, 2),  # nothing is known
        (Samples(series(*[4] * 60), 0.0, True), 1, 1),
        (Samples(series(*[9] * 60), 0.0, True), 1, 3),
        (Samples(series(*[40] * 60), 0.0, True), 1, 5),  # not above maxReplicas
        (Samples(series(*[0] * 54, *[20] * 6), 0.0, True), 1, 5),  # a burst: the panic window
        (Samples(series(*[4] * 59, 0), 5.0, True), 1, 1),  # idle, but not for long enough
        (Samples(series(*[4] * 25, *[0] * 31), 31.0, True), 1, 0),  # the windows still remember load: idle is idle
        (Samples(series(*[0] * 60), 60.0, False), 1, 1),  # a gateway that isn't heard may have load
        (Samples(series(*[0] * 60), None, True), 1, 1),
        (Samples(series(*[1] * 60), 0.0, True), 3, 1),
        (Samples(series(*[1] * 10), 0.0, True), 3, 3),  # the window isn't full yet
        (Samples(series(*[1] * 59, 9), 0.0, True), 3, 3),  # never below what is in flight
    ],
)
def test_decide(samples: Samples, replicas: int, wanted: int) -> None:
    assert decide(samples, LIMITS, ScalerState(replicas), NOW)[0] == wanted


def test_a_model_that_must_not_go_to_zero_stays() -> None:
    limits = AutoscalingSpec(min_replicas=1, max_replicas=2, idle_seconds=1)
    assert decide(Samples(series(*[0] * 60), 600.0, True), limits, ScalerState(1), NOW)[0] == 1


def test_a_panic_holds_for_the_stable_window() -> None:
    burst = Samples(series(*[0] * 54, *[20] * 6), 0.0, True)
    wanted, state = decide(burst, LIMITS, ScalerState(1), NOW)
    assert wanted == 5
    calm = Samples(tuple(Sample(NOW + 10 - 60 + index, 1, 0) for index in range(61)), 0.0, True)
    assert decide(calm, LIMITS, state, NOW + 10)[0] == 5
    later = Samples(tuple(Sample(NOW + 70 - 60 + index, 1, 0) for index in range(61)), 0.0, True)
    assert decide(later, LIMITS, state, NOW + 70)[0] == 1


def at(seconds_ago: float, in_flight: int, held: int = 0) -> Sample:
    return Sample(NOW - seconds_ago, in_flight, held)


@pytest.mark.parametrize(("replicas", "in_panic"), [(1, True), (2, True), (3, False), (4, False), (0, True)])
def test_a_panic_is_at_least_twice_what_there_is(replicas: int, in_panic: bool) -> None:
    """16 requests of the last six seconds are worth four pods, whatever there was before."""
    burst = Samples(series(*[0] * 54, *[16] * 6), 0.0, True)
    _, state = decide(burst, LIMITS, ScalerState(replicas), NOW)
    assert (state.panic_until > NOW) is in_panic
    assert not in_panic or state.panic_until == NOW + LIMITS.stable_window_seconds


def test_a_panic_ends_with_its_window() -> None:
    calm = Samples(series(*[1] * 61), 0.0, True)
    assert decide(calm, LIMITS, ScalerState(5, NOW + 0.1), NOW)[0] == 5
    assert decide(calm, LIMITS, ScalerState(5, NOW), NOW)[0] == 1


def test_down_when_nine_tenths_of_the_window_are_known() -> None:
    almost = Samples((at(53.9, 1), at(20, 1), at(0, 1)), 0.0, True)
    assert decide(almost, LIMITS, ScalerState(3), NOW)[0] == 3
    known = Samples((at(54, 1), at(20, 1), at(0, 1)), 0.0, True)
    assert decide(known, LIMITS, ScalerState(3), NOW)[0] == 1


def test_samples_before_a_window_count_only_where_there_are_no_others() -> None:
    """The newest stands in for a panic window that is empty."""
    limits = AutoscalingSpec(max_replicas=5, target_concurrency=1, stable_window_seconds=60, panic_window_seconds=6)
    assert decide(Samples((at(50, 5), at(30, 1), at(7, 3)), 0.0, True), limits, ScalerState(2), NOW)[0] == 3
    assert decide(Samples((at(90, 5), at(80, 4), at(70, 2)), 0.0, True), limits, ScalerState(1), NOW)[0] == 2


def test_a_sample_as_old_as_the_window_counts() -> None:
    limits = AutoscalingSpec(max_replicas=9, target_concurrency=1, stable_window_seconds=60, panic_window_seconds=6)
    assert decide(Samples((at(60, 9), at(0, 1)), 0.0, True), limits, ScalerState(5), NOW)[0] == 5


def test_a_model_without_load_that_may_not_sleep_yet_keeps_what_there_is_and_asks_for_no_more() -> None:
    idle = Samples(series(*[0] * 61), 5.0, True)
    assert decide(idle, LIMITS, ScalerState(0), NOW)[0] == 0
    assert decide(idle, LIMITS, ScalerState(1), NOW)[0] == 1


def test_idle_to_the_second() -> None:
    rest = series(*[0] * 61)
    assert decide(Samples(rest, 29.9, True), LIMITS, ScalerState(1), NOW)[0] == 1
    assert decide(Samples(rest, 30.0, True), LIMITS, ScalerState(1), NOW)[0] == 0


def test_without_samples_the_limits_still_hold() -> None:
    limits = AutoscalingSpec(min_replicas=2, max_replicas=4)
    assert decide(Samples(), limits, ScalerState(0), NOW) == (2, ScalerState(2))
    assert decide(Samples(), limits, ScalerState(9), NOW) == (4, ScalerState(4))
