"""What people read: the scheduler's words, a container's last line, durations, names of Events."""

import json

import msgspec
import pytest
from ams_common.reasons import ROWS, Reason
from ams_kube.objects import Pod
from ams_operator.act.events import event_name
from ams_operator.decide.observed import Transition
from ams_operator.decide.status.endings import termination_failure
from ams_operator.decide.status.formatting import duration
from ams_operator.decide.status.pods import read_pod
from plan_objects import pod, resource


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
    problem = read_pod(pod(message), None, ["nvidia.com/gpu"]).problem
    assert problem is not None
    assert problem.reason == reason
    assert message in problem.message


@pytest.mark.parametrize("reason", [reason for reason, row in ROWS.items() if row.status == "False"])
def test_a_reason_in_a_termination_message_makes_its_condition_false(reason: Reason) -> None:
    problem = read_pod(failed_download(reason, "Why."), None, []).problem
    assert problem is not None
    assert (problem.condition, problem.reason) == (ROWS[reason].condition, reason)
    assert problem.message == "Why."


def test_a_reason_of_another_version_is_passed_on_in_the_message() -> None:
    problem = read_pod(failed_download("Hiccups", "It has hiccups."), None, []).problem
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


def test_durations_for_people() -> None:
    assert [duration(each) for each in (0, 45.4, 190, 7500)] == ["0s", "45s", "3m10s", "2h05m"]


def test_the_same_news_about_the_same_object_has_the_same_name() -> None:
    transition = Transition("Warning", "DiskFull", "WeightsReady: full")
    assert event_name(resource(), transition) == event_name(resource(), transition)
    assert event_name(resource(), transition) != event_name(
        resource(), Transition("Warning", "DiskFull", "WeightsReady: fuller")
    )
