"""Words that programs and people read: conditions and progress."""

from typing import get_args

import msgspec
from ams_common.progress import Download, Failure, Progress
from ams_common.resource import conditions
from ams_common.resource.conditions import REASONS, ConditionType
from ams_common.resource.status import Condition, Status


def test_every_reason_belongs_to_a_condition() -> None:
    constants = {value for name, value in vars(conditions).items() if name.isupper() and isinstance(value, str)}
    reasons = {reason for groups in REASONS.values() for group in groups for reason in group}
    assert constants - set(get_args(ConditionType)) == reasons
    assert set(REASONS) == set(get_args(ConditionType)) - {"Ready"}  # Ready has the reason of the first that fails


def test_a_status_is_written_in_kubernetes_spelling_and_only_where_set() -> None:
    status = Status(
        observed_generation=3,
        ready_replicas=0,
        download=Download(bytesDone=5, etaSeconds=1.5),
        conditions=[
            Condition(
                type="Ready",
                status="False",
                reason="Downloading",
                message="43 %",
                last_transition_time="2026-01-01T00:00:00Z",
            )
        ],
    )
    assert msgspec.to_builtins(status) == {
        "observedGeneration": 3,
        "readyReplicas": 0,
        "download": {"bytesDone": 5, "etaSeconds": 1.5},
        "conditions": [
            {
                "type": "Ready",
                "status": "False",
                "reason": "Downloading",
                "message": "43 %",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 0,
            }
        ],
    }


def test_progress_in_words() -> None:
    assert Progress("downloading", percent=43.4, eta_seconds=190.2).comment() == "downloading 43 % eta 190s"
    assert Progress("importing").comment() == "importing"


def test_progress_on_the_wire() -> None:
    progress = Progress("failed", failure=Failure("LoadFailed", "no config.json", retryable=True))
    wire = b'{"phase":"failed","failure":{"reason":"LoadFailed","message":"no config.json","retryable":true}}'
    assert msgspec.json.encode(progress) == wire
    assert msgspec.json.decode(wire, type=Progress) == progress
