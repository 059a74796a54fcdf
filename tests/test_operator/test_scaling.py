"""What autoscaling remembers of each model between two samples of its demand."""

from ams_common.demand import ModelDemand
from ams_common.resource.spec import AutoscalingSpec
from ams_operator.decide.scaling import LoadScaling

LIMITS = AutoscalingSpec(
    max_replicas=5, target_concurrency=4, idle_seconds=30, stable_window_seconds=20, panic_window_seconds=4
)
IDLE = ModelDemand(idle_seconds=1000.0)


def ask(
    scaling: LoadScaling, demand: ModelDemand, now: float, *, limits: AutoscalingSpec = LIMITS, running: int = 0,
    complete: bool = True,
) -> int:  # fmt: skip
    return scaling.update("a/m", demand, limits, now, running=running, complete=complete)


def test_nothing_is_asked_for_before_a_sample() -> None:
    scaling = LoadScaling()
    assert scaling.replicas("a/m") is None
    assert ask(scaling, IDLE, 0.0) == 0
    assert scaling.replicas("a/m") == 0


def test_a_model_without_requests_begins_with_the_pods_that_it_has() -> None:
    """A new operator doesn't end what runs before it knows how long nobody asked."""
    assert ask(LoadScaling(), ModelDemand(idle_seconds=5.0), 0.0, running=2) == 2
    assert ask(LoadScaling(), IDLE, 0.0, running=2) == 0
    assert ask(LoadScaling(), IDLE, 0.0, running=2, complete=False) == 2


def test_an_idle_model_gets_its_fewest_at_once() -> None:
    scaling = LoadScaling()
    limits = AutoscalingSpec(min_replicas=2, max_replicas=5)
    assert ask(scaling, IDLE, 0.0, limits=limits) == 2
    assert scaling.replicas("a/m") == 2


def test_a_held_request_wakes_a_model() -> None:
    scaling = LoadScaling()
    ask(scaling, IDLE, 0.0)
    assert ask(scaling, ModelDemand(held=1, idle_seconds=0.0), 1.0) == 1
    scaling = LoadScaling()
    ask(scaling, IDLE, 0.0)
    assert ask(scaling, ModelDemand(in_flight=1, idle_seconds=0.0), 1.0) == 1


def test_load_is_averaged_over_the_window_and_older_samples_are_forgotten() -> None:
    scaling = LoadScaling()
    for second in range(21):
        replicas = ask(scaling, ModelDemand(in_flight=8, idle_seconds=0.0), float(second), running=2)
    assert replicas == 2
    asked = [ask(scaling, ModelDemand(in_flight=2, idle_seconds=0.0), float(second)) for second in range(21, 44)]
    assert asked.index(1) == 13, "at 34 s the mean of the 21 samples is (7 * 8 + 14 * 2) / 21 = 4"
    assert set(asked[13:]) == {1}


def test_a_sample_at_the_edge_of_the_window_counts() -> None:
    scaling = LoadScaling()
    ask(scaling, ModelDemand(in_flight=20, idle_seconds=0.0), 0.0)
    for second in range(1, 21):
        ask(scaling, ModelDemand(in_flight=1, idle_seconds=0.0), float(second))
    assert len(scaling._series["a/m"]) == 21
    ask(scaling, ModelDemand(in_flight=1, idle_seconds=0.0), 20.5)
    assert len(scaling._series["a/m"]) == 21


def test_a_model_that_fell_asleep_keeps_no_samples() -> None:
    scaling = LoadScaling()
    ask(scaling, ModelDemand(in_flight=1, idle_seconds=0.0), 0.0)
    for second in range(1, 60):
        replicas = ask(scaling, ModelDemand(idle_seconds=float(second)), float(second))
    assert replicas == 0
    assert scaling._series == {}


def test_models_are_apart_and_can_be_forgotten() -> None:
    scaling = LoadScaling()
    for key in ("a/m", "a/n", "b/m"):
        scaling.update(key, ModelDemand(held=1), LIMITS, 0.0, running=0, complete=True)
    scaling.forget("a/n")
    assert [scaling.replicas(key) for key in ("a/m", "a/n", "b/m")] == [1, None, 1]
    scaling.forget_others(["b/m", "c/x"])
    assert [scaling.replicas(key) for key in ("a/m", "a/n", "b/m")] == [None, None, 1]
    assert scaling._series.keys() == {"b/m"}
    scaling.forget("never seen")
