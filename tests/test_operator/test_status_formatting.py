"""What people read: the scheduler's words, a container's last line, durations, names of Events."""

import json

import msgspec
import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Progress
from ams_common.reasons import ROWS, Reason
from ams_kube.objects import Pod
from ams_operator.act.events import event_name
from ams_operator.decide.observed import Transition
from ams_operator.decide.status.endings import termination_failure
from ams_operator.decide.status.formatting import percent
from ams_operator.decide.status.pods import read_pod
from ams_operator.watch.progress import goes_back
from plan_objects import NOW, pod, resource


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        ("0/3 nodes are available: 1 node(s) had untolerated taint, 2 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        ("0/3 nodes are available: 3 Insufficient memory.", "Unschedulable"),
        ("0/3 nodes are available: 3 Insufficient amd.com/gpu.", "Unschedulable"),  # which this one doesn't ask for
        ("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "VolumePending"),
        ("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", "VolumePending"),
        ('persistentvolumeclaim "x" not found', "VolumePending"),
    ],
)
def test_the_schedulers_words(message: str, reason: str) -> None:
    problem = read_pod(pod(message), None, ["nvidia.com/gpu"], NOW).problem
    assert problem is not None
    assert problem.reason == reason
    assert message in problem.message


@pytest.mark.parametrize("reason", [reason for reason, row in ROWS.items() if row.status == "False"])
def test_a_reason_in_a_termination_message_makes_its_condition_false(reason: Reason) -> None:
    problem = read_pod(failed_download(reason, "Why."), None, [], NOW).problem
    assert problem is not None
    assert (problem.condition, problem.reason) == (ROWS[reason].condition, reason)
    assert problem.message == "Why."


def test_a_reason_of_another_version_is_passed_on_in_the_message() -> None:
    problem = read_pod(failed_download("Hiccups", "It has hiccups."), None, [], NOW).problem
    assert problem is not None
    assert (problem.reason, problem.message) == ("DownloadFailed", "Hiccups: It has hiccups.")


def failed_download(reason: str, message: str) -> Pod:
    termination = {"exitCode": 1, "message": json.dumps({"reason": reason, "message": message})}
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {"initContainerStatuses": [{"name": "download", "state": {"terminated": termination}}]},
    }
    return msgspec.convert(document, Pod)


def test_the_line_by_which_a_container_explains_its_end() -> None:
    line = '{"reason":"DiskFull","message":"full","retryable":false}'
    found = termination_failure(f"some words\n{line}\n")
    assert found is not None
    assert (found.reason, found.message) == ("DiskFull", "full")
    assert termination_failure("{not json}\nwords") is None
    assert termination_failure("") is None


def test_the_same_news_about_the_same_object_has_the_same_name() -> None:
    transition = Transition("Warning", "DiskFull", "WeightsReady: full")
    assert event_name(resource(), transition) == event_name(resource(), transition)
    assert event_name(resource(), transition) != event_name(
        resource(), Transition("Warning", "DiskFull", "WeightsReady: fuller")
    )


def test_a_load_never_goes_back() -> None:
    steps = [
        (Phase.IMPORTING, None),
        (Phase.BUILDING, None),
        (Phase.READING, 0.0),
        (Phase.READING, 100.0),
        (Phase.PACKING, 30.0),
        (Phase.PACKING, 100.0),
        (Phase.WARMING_UP, None),
        (Phase.CHECKING, None),
    ]
    shown = [percent(Progress(phase, share)) for phase, share in steps]
    assert shown == [0, 5, 10, 70, 76, 90, 90, 97]
    assert percent(Progress(Phase.DOWNLOADING, 43.2)) == 43
    packing, reading = Progress(Phase.PACKING, 30.0), Progress(Phase.READING, 10.0)
    assert (goes_back(packing, reading), goes_back(reading, packing)) == (True, False)
    assert not goes_back(packing, Progress(Phase.IMPORTING)), "another process begins at the beginning"
