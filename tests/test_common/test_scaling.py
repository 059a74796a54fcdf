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
