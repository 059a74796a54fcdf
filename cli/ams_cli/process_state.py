"""What becomes of one model's process: pure decisions, with time and chance as arguments.

    idle ──► downloading ──► idle ──► starting ──► ready ──► draining ──► idle
                 │                        │           │
                 └────────── failed ──────┴── crashed ┘   back to idle, not before some time

`next_action` says what to do next; the methods of `ProcessState` say what an outcome makes of a state.
"""

from dataclasses import dataclass, replace
from enum import Enum

from ams_common.lifecycle import Phase
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment

_STEADY_SECONDS = 10.0  # a process that was ready for longer didn't crash in a loop
_LONGEST_BACKOFF_SECONDS = 60.0
_LONGEST_FAILURE_SECONDS = 300.0
_FAILURE_SECONDS = 10.0
_RETRYABLE_SECONDS = 1.0
_CRASHES_BEFORE_FAILURE = 4
_SHORTEST_IDLE_SECONDS = 0.5  # who waited for the model gets time to send its request


class Action(Enum):
    DOWNLOAD = "download"
    START = "start"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the manifest asks for. `suspended` is the sentence that requests are refused with, if they are.

    `at_rest` is the phase of the model while nothing runs for it.
    """

    always_on: bool
    prefetch: bool
    idle_seconds: float
    suspended: str | None = None
    at_rest: Phase = Phase.IDLE

    def stopped_by_hand(self) -> "Policy":
        """Only who asks for the model starts it."""
        return replace(self, always_on=False, prefetch=False)


@dataclass(frozen=True, slots=True)
class ProcessDemand:
    """What clients want of the model now. `last_used` is when a request last started or ended."""

    waiting: int = 0
    in_flight: int = 0
    last_used: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessState:
    """Where a model is: IDLE, DOWNLOADING, STARTING, READY or DRAINING.

    `weights`: they were verified in this run. `not_before`: no download or start earlier.

    `failure` explains why the last try ended; requests are refused with it until `not_before`. `crashes` counts
    processes in a row that ended without having served for a while.
    """

    phase: Phase = Phase.IDLE
    weights: bool = False
    ready_since: float = 0.0
    crashes: int = 0
    failures: int = 0
    not_before: float = 0.0
    failure: Failure | None = None

    def refusal(self, now: float) -> Failure | None:
        """Why a waiting request should not wait: the last try failed, and the next one is a while away."""
        if self.failure is not None and self.phase is Phase.IDLE and now < self.not_before:
            return self.failure
        return None

    def downloading(self) -> "ProcessState":
        return replace(self, phase=Phase.DOWNLOADING, failure=None)

    def downloaded(self) -> "ProcessState":
        return replace(self, phase=Phase.IDLE, weights=True, failures=0)

    def starting(self) -> "ProcessState":
        return replace(self, phase=Phase.STARTING, failure=None)

    def ready(self, now: float) -> "ProcessState":
        return replace(self, phase=Phase.READY, ready_since=now, failures=0, failure=None)

    def stopping(self) -> "ProcessState":
        return replace(self, phase=Phase.DRAINING)

    def stopped(self) -> "ProcessState":
        """The process ended because it was told to."""
        return replace(self, phase=Phase.IDLE, crashes=0, not_before=0.0)

    def asked_again(self) -> "ProcessState":
        """A person wants another try now, whatever happened before."""
        return replace(self, failure=None, not_before=0.0)

    def failed(self, failure: Failure, now: float, draw: float) -> "ProcessState":
        """A download or a load ended with an explanation. `draw` in [0, 1) spreads tries.

        What may pass by itself is tried again at a request soon after; what will not, after a longer back-off. The
        weights are looked at again.
        """
        failures = self.failures + 1
        first = _RETRYABLE_SECONDS if failure.retryable else _FAILURE_SECONDS
        longest = _LONGEST_BACKOFF_SECONDS if failure.retryable else _LONGEST_FAILURE_SECONDS
        wait = min(first * 2.0 ** min(failures - 1, 16), longest) * (1 + draw / 4)
        return replace(self, phase=Phase.IDLE, weights=False, failures=failures, failure=failure, not_before=now + wait)

    def crashed(self, how: str, now: float, draw: float) -> "ProcessState":
        """The process ended without an explanation: killed, or out of memory. `how` is a sentence about it.

        The first time it may start again at once, then after 1, 2, 4 … seconds; from the fourth time in a row on,
        waiting requests are refused.
        """
        was_steady = self.phase is Phase.READY and now - self.ready_since >= _STEADY_SECONDS
        crashes = 1 if was_steady else self.crashes + 1
        wait = min(2.0 ** min(crashes - 2, 16), _LONGEST_BACKOFF_SECONDS) * (1 + draw / 4) if crashes > 1 else 0.0
        failure = None
        if crashes >= _CRASHES_BEFORE_FAILURE:
            failure = Failure(Reason.CRASH_LOOP, f"the process ended {crashes} times in a row; {how}", retryable=True)
        return replace(self, phase=Phase.IDLE, crashes=crashes, failure=failure, not_before=now + wait)


def policy_of(resource: ModelDeployment) -> Policy:
    spec, name = resource.spec, resource.metadata.name
    suspended, at_rest = None, Phase.IDLE
    if spec.suspend:
        at_rest = Phase.SUSPENDED
        suspended = f"{name} is suspended by its manifest (suspend: true)."
    elif spec.autoscaling is None and spec.replicas == 0:
        at_rest = Phase.STOPPED
        suspended = f"{name} is stopped by its manifest (replicas: 0)."
    always_on = spec.autoscaling.min_replicas > 0 if spec.autoscaling else spec.replicas > 0
    idle_seconds = float(spec.autoscaling.idle_seconds) if spec.autoscaling else 0.0
    return Policy(always_on, spec.cache.prefetch, idle_seconds, suspended, at_rest)


def next_action(
    policy: Policy, state: ProcessState, demand: ProcessDemand, now: float
) -> tuple[Action | None, float | None]:
    """(what to do now, when to ask again at the latest); both None: only an outcome or a client changes anything."""
    if state.phase is Phase.IDLE:
        wanted = policy.suspended is None and (policy.always_on or demand.waiting > 0)
        fetch = not state.weights and policy.suspended is None and (wanted or policy.prefetch)
        if not (wanted or fetch):
            return None, None
        if now < state.not_before:
            return None, state.not_before
        return (Action.DOWNLOAD if fetch else Action.START), None
    if state.phase is Phase.READY and not policy.always_on:
        idle_seconds = max(policy.idle_seconds, _SHORTEST_IDLE_SECONDS)
        if demand.in_flight or demand.waiting:
            return None, now + idle_seconds
        idle_at = max(demand.last_used, state.ready_since) + idle_seconds
        return (Action.STOP, None) if now >= idle_at else (None, idle_at)
    return None, None
