"""A status and its progress, as programs and people read them."""

import msgspec
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Failure, Progress
from ams_common.resource.status import Condition, Status


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
    assert Progress(Phase.DOWNLOADING, percent=43.4, eta_seconds=190.2).comment() == "downloading 43 % eta 190s"
    assert Progress(Phase.IMPORTING).comment() == "importing"


def test_progress_on_the_wire() -> None:
    progress = Progress(Phase.FAILED, failure=Failure("LoadFailed", "no config.json", retryable=True))
    wire = b'{"phase":"failed","failure":{"reason":"LoadFailed","message":"no config.json","retryable":true}}'
    assert msgspec.json.encode(progress) == wire
    assert msgspec.json.decode(wire, type=Progress) == progress
