"""What becomes of a model's process, case by case."""

from dataclasses import replace

import pytest
from ams_cli.process_state import Action, Policy, ProcessDemand, ProcessState, next_action, policy_of
from ams_common.lifecycle import Phase
from ams_common.progress import Failure
from ams_common.resource.parse import parse_model_deployment
from hypothesis import given
from hypothesis import strategies as st
from test_common.resource_cases import manifest

ON_DEMAND = Policy(always_on=False, prefetch=False, idle_seconds=300.0)
PREFETCHED = replace(ON_DEMAND, prefetch=True)
ALWAYS = Policy(always_on=True, prefetch=False, idle_seconds=0.0)
SUSPENDED = Policy(always_on=True, prefetch=True, idle_seconds=0.0, suspended="m is suspended.")

COLD = ProcessState()
FETCHED = ProcessState(weights=True)
READY = ProcessState(Phase.READY, weights=True, ready_since=100.0)
NOBODY = ProcessDemand()
SOMEBODY = ProcessDemand(waiting=1)
BROKEN = Failure("LoadFailed", "no config.json")
RATE_LIMITED = Failure("HubRateLimited", "429", retryable=True)


@pytest.mark.parametrize(
    ("policy", "state", "demand", "now", "action", "wake_at"),
    [
        # cold
        (ON_DEMAND, COLD, NOBODY, 0.0, None, None),
        (ON_DEMAND, COLD, SOMEBODY, 0.0, Action.DOWNLOAD, None),
        (ON_DEMAND, FETCHED, SOMEBODY, 0.0, Action.START, None),
        (ON_DEMAND, FETCHED, NOBODY, 0.0, None, None),
        (PREFETCHED, COLD, NOBODY, 0.0, Action.DOWNLOAD, None),
        (PREFETCHED, FETCHED, NOBODY, 0.0, None, None),
        (ALWAYS, COLD, NOBODY, 0.0, Action.DOWNLOAD, None),
        (ALWAYS, FETCHED, NOBODY, 0.0, Action.START, None),
        (SUSPENDED, COLD, SOMEBODY, 0.0, None, None),
        (SUSPENDED, FETCHED, SOMEBODY, 0.0, None, None),
        # back-off
        (ALWAYS, replace(FETCHED, not_before=5.0), NOBODY, 4.0, None, 5.0),
        (ALWAYS, replace(FETCHED, not_before=5.0), NOBODY, 5.0, Action.START, None),
        (ON_DEMAND, replace(FETCHED, not_before=5.0), NOBODY, 4.0, None, None),
        (ON_DEMAND, replace(COLD, not_before=5.0), SOMEBODY, 4.0, None, 5.0),
        (PREFETCHED, replace(COLD, not_before=5.0), NOBODY, 4.0, None, 5.0),
        # under way: only an outcome changes anything
        (ON_DEMAND, replace(COLD, phase=Phase.DOWNLOADING), SOMEBODY, 0.0, None, None),
        (ON_DEMAND, replace(FETCHED, phase=Phase.STARTING), NOBODY, 0.0, None, None),
        (ON_DEMAND, replace(FETCHED, phase=Phase.DRAINING), SOMEBODY, 0.0, None, None),
        # idle
        (ON_DEMAND, READY, ProcessDemand(last_used=200.0), 499.0, None, 500.0),
        (ON_DEMAND, READY, ProcessDemand(last_used=200.0), 500.0, Action.STOP, None),
        (ON_DEMAND, READY, ProcessDemand(last_used=0.0), 399.0, None, 400.0),
        (ON_DEMAND, READY, ProcessDemand(in_flight=1, last_used=0.0), 1000.0, None, 1300.0),
        (ON_DEMAND, READY, ProcessDemand(waiting=1, last_used=0.0), 1000.0, None, 1300.0),
        (replace(ON_DEMAND, idle_seconds=0.0), READY, ProcessDemand(in_flight=1), 1000.0, None, 1000.5),
        (replace(ON_DEMAND, idle_seconds=0.0), READY, NOBODY, 100.0, None, 100.5),
        (replace(ON_DEMAND, idle_seconds=0.0), READY, NOBODY, 1000.0, Action.STOP, None),
        (ALWAYS, READY, NOBODY, 1e9, None, None),
    ],
)
def test_decide(
    policy: Policy, state: ProcessState, demand: ProcessDemand, now: float, action: Action | None, wake_at: float | None
) -> None:
    assert next_action(policy, state, demand, now) == (action, wake_at)


@pytest.mark.parametrize(
    ("changes", "policy"),
    [
        ({}, Policy(always_on=True, prefetch=False, idle_seconds=0.0)),
        ({"spec__autoscaling": {}}, Policy(always_on=False, prefetch=False, idle_seconds=300.0)),
        (
            {"spec__autoscaling": {"minReplicas": 1, "idleSeconds": 5}, "spec__cache__prefetch": True},
            Policy(always_on=True, prefetch=True, idle_seconds=5.0),
        ),
        ({"spec__replicas": 0, "spec__autoscaling": {}}, Policy(always_on=False, prefetch=False, idle_seconds=300.0)),
    ],
)
def test_policy_of_a_manifest(changes: dict[str, object], policy: Policy) -> None:
    assert policy_of(parse_model_deployment(manifest(**changes))) == policy


@pytest.mark.parametrize(
    ("changes", "sentence", "at_rest"),
    [
        ({"spec__suspend": True}, "qwen-vl is suspended by its manifest (suspend: true).", Phase.SUSPENDED),
        ({"spec__replicas": 0}, "qwen-vl is stopped by its manifest (replicas: 0).", Phase.STOPPED),
    ],
)
def test_a_manifest_that_wants_no_process(changes: dict[str, object], sentence: str, at_rest: Phase) -> None:
    policy = policy_of(parse_model_deployment(manifest(**changes)))
    assert (policy.suspended, policy.at_rest) == (sentence, at_rest)


def test_the_usual_way() -> None:
    state = COLD.downloading()
    assert (state.phase, state.weights) == (Phase.DOWNLOADING, False)
    state = state.downloaded()
    assert (state.phase, state.weights) == (Phase.IDLE, True)
    state = state.starting().ready(now=7.0)
    assert (state.phase, state.ready_since) == (Phase.READY, 7.0)
    assert state.stopping().stopped() == ProcessState(weights=True, ready_since=7.0)


def test_a_steady_process_that_is_killed_starts_again_at_once() -> None:
    for _ in range(3):
        state = READY.crashed("killed", now=200.0, draw=0.5)
        assert (state.phase, state.crashes, state.not_before, state.failure) == (Phase.IDLE, 1, 200.0, None)
    assert next_action(ON_DEMAND, state, SOMEBODY, 200.0) == (Action.START, None)
    assert next_action(ON_DEMAND, state, NOBODY, 200.0) == (None, None)


def test_a_process_that_keeps_crashing_waits_longer_each_time_and_is_then_refused() -> None:
    state, waits = FETCHED, []
    for _ in range(10):
        state = state.starting().crashed("the process was killed (SIGKILL)", now=0.0, draw=0.0)
        waits.append(state.not_before)
        if state.crashes < 4:
            assert state.refusal(0.0) is None
    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert state.refusal(59.0) == Failure(
        "CrashLoop", "the process ended 10 times in a row; the process was killed (SIGKILL)", retryable=True
    )
    assert state.refusal(60.0) is None


def test_a_process_that_crashes_soon_after_it_was_ready_counts_as_looping() -> None:
    state = replace(READY, crashes=1).crashed("killed", now=READY.ready_since + 1, draw=0.0)
    assert (state.crashes, state.not_before) == (2, READY.ready_since + 2)


def test_an_explained_failure_refuses_until_its_back_off_ends_and_looks_at_the_weights_again() -> None:
    state = FETCHED.starting().failed(BROKEN, now=0.0, draw=0.0)
    assert (state.phase, state.weights, state.not_before) == (Phase.IDLE, False, 10.0)
    assert state.refusal(9.9) == BROKEN
    assert state.refusal(10.0) is None
    assert next_action(ON_DEMAND, state, SOMEBODY, 10.0) == (Action.DOWNLOAD, None)


def test_what_may_pass_by_itself_is_tried_again_soon() -> None:
    state = COLD.downloading().failed(RATE_LIMITED, now=0.0, draw=0.0)
    assert state.not_before == 1.0
    for _ in range(20):
        state = state.downloading().failed(RATE_LIMITED, now=0.0, draw=0.0)
    assert state.not_before == 60.0


def test_getting_ready_forgets_failures() -> None:
    state = FETCHED.starting().failed(BROKEN, now=0.0, draw=0.0)
    state = state.downloading().downloaded().starting().ready(now=20.0)
    assert (state.failures, state.failure) == (0, None)


@given(st.integers(0, 2000), st.floats(0, 1, exclude_max=True), st.booleans())
def test_waits_are_bounded_and_spread(count: int, draw: float, retryable: bool) -> None:
    failure = Failure("X", "x", retryable=retryable)
    failed = ProcessState(failures=count).failed(failure, now=100.0, draw=draw)
    crashed = ProcessState(crashes=count).crashed("", now=100.0, draw=draw)
    assert 101.0 <= failed.not_before <= 100.0 + 300 * 1.25
    assert 100.0 <= crashed.not_before <= 100.0 + 60 * 1.25


@given(
    st.sampled_from([ON_DEMAND, PREFETCHED, ALWAYS, SUSPENDED]),
    st.builds(
        ProcessState,
        phase=st.sampled_from([Phase.IDLE, Phase.DOWNLOADING, Phase.STARTING, Phase.READY, Phase.DRAINING]),
        weights=st.booleans(),
        not_before=st.floats(0, 100),
    ),
    st.builds(ProcessDemand, waiting=st.integers(0, 2), in_flight=st.integers(0, 2), last_used=st.floats(0, 100)),
    st.floats(0, 1000),
)
def test_laws_of_decide(policy: Policy, state: ProcessState, demand: ProcessDemand, now: float) -> None:
    action, wake_at = next_action(policy, state, demand, now)
    assert wake_at is None or wake_at > now or wake_at == pytest.approx(now)
    if action is Action.STOP:
        assert demand.in_flight == demand.waiting == 0
        assert not policy.always_on
    if action is Action.START:
        assert state.weights
        assert policy.always_on or demand.waiting
    if policy.suspended:
        assert action not in (Action.START, Action.DOWNLOAD)
