"""How a container ended, and whether one waits for it: once isn't a loop."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from ams_common.lifecycle import Phase
from ams_common.reasons import ROWS
from ams_kube.objects import Claim, Pod
from ams_operator.decide.children.common import source_digest
from ams_operator.decide.engine import BUILTIN
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.status.pods import PodView, read_pod
from plan_objects import NOW, OURS, SETTINGS, child, resource

BEGAN = "2026-01-01T00:00:10Z"
KILLED = {"exitCode": 137, "reason": "Error", "startedAt": BEGAN, "message": "INFO tiny is ready: LlamaForCausalLM\n"}
OOM = {**KILLED, "reason": "OOMKilled"}
WAS_READY, NEVER_READY = "2026-01-01T00:01:00Z", "2026-01-01T00:00:10Z"


def view(
    restarts: int, ended: dict[str, Any], *, was_ready: bool, back_off: str = "", running: bool = False
) -> PodView:
    waiting = {"reason": "CrashLoopBackOff", "message": f"back-off {back_off} restarting failed container=serve pod=x"}
    state = {"running": {}} if running else {"waiting": waiting} if back_off else {"terminated": ended}
    at = WAS_READY if was_ready else NEVER_READY
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at}],
            "initContainerStatuses": [{"name": "download", "ready": True, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [
                {"name": "serve", "restartCount": restarts, "state": state, "lastState": {"terminated": ended}}
            ],
        },
    }
    return read_pod(msgspec.convert(document, Pod), None, [], NOW)


@pytest.mark.parametrize("ended", [KILLED, OOM, {**KILLED, "exitCode": 2}])
@pytest.mark.parametrize(
    ("given", "waits"),
    [
        ({"restarts": 0, "was_ready": True}, True),
        ({"restarts": 1, "was_ready": True, "running": True}, True),
        ({"restarts": 3, "was_ready": True, "back_off": "40s"}, True),
        ({"restarts": 4, "was_ready": True, "back_off": "1m20s"}, True),
        ({"restarts": 5, "was_ready": True, "back_off": "2m40s"}, False),
        ({"restarts": 9, "was_ready": True, "back_off": "5m0s"}, False),
        ({"restarts": 40, "was_ready": True, "running": True}, True),
        ({"restarts": 0, "was_ready": False}, True),
        ({"restarts": 1, "was_ready": False, "running": True}, True),
        ({"restarts": 1, "was_ready": False, "back_off": "10s"}, False),
        ({"restarts": 2, "was_ready": False, "running": True}, False),
    ],
)
def test_requests_wait_for_a_server_until_it_loops(ended: dict[str, Any], given: dict[str, Any], waits: bool) -> None:
    problem = view(ended=ended, **given).problem
    assert problem is not None
    assert (problem.reason == "Restarting") is waits, problem
    row = ROWS[problem.reason]
    assert (row.waiting_helps, row.fatal, row.severity) == (waits, not waits, "Warning")


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (KILLED, "The model server was killed by signal 9 (SIGKILL) and is started again."),
        ({**KILLED, "exitCode": 139}, "The model server was killed by signal 11 (SIGSEGV) and is started again."),
        ({**KILLED, "exitCode": 0, "signal": 15}, None),
        ({**KILLED, "exitCode": 255}, "The model server ended (status 255) and is started again."),
        (OOM, "The model server used more memory than its limit, was killed and is started again."),
    ],
)
def test_the_signal_is_told_and_not_the_last_line_of_a_healthy_log(ended: dict[str, Any], words: str | None) -> None:
    problem = view(0, ended, was_ready=True).problem
    assert (problem.message if problem is not None else None) == words


def test_a_loop_tells_how_often_and_by_what() -> None:
    problem = view(5, KILLED, was_ready=True, back_off="2m40s").problem
    assert problem is not None
    assert problem.message == "The model server was killed by signal 9 (SIGKILL) 6 times."
    problem = view(
        1, {**KILLED, "exitCode": 1, "message": "x\nValueError: boom\n"}, was_ready=False, back_off="10s"
    ).problem
    assert problem is not None
    assert problem.message == "The model server ended (status 1) 2 times; its last line: ValueError: boom"


def test_times_that_are_not_known_are_no_sign_of_having_served() -> None:
    problem = view(1, {"exitCode": 137, "startedAt": None}, was_ready=True, back_off="10s").problem
    assert problem is not None
    assert problem.reason == "CrashLoop"
    assert view(0, KILLED, was_ready=True).stage is Phase.STARTING


def test_a_server_that_had_been_ready_is_not_let_wait_for_long() -> None:
    """A new pod starts at once, where the kubelet would wait for 20 s, 40 s, … 5 min."""
    served, first = (view(2, KILLED, was_ready=True, back_off=back_off).pod for back_off in ("20s", "10s"))
    never = view(2, KILLED, was_ready=False, back_off="20s").pod
    for given, pod, replaced in (
        (Observed(resource(), pods=[served]), served, True),
        (Observed(resource(), pods=[served], replacements=5), served, False),
        (Observed(resource(cache={"perReplica": True}), pods=[served]), served, False),
        (Observed(resource(), pods=[first]), first, False),
        (Observed(resource(), pods=[never]), never, False),
    ):
        claim = child(Claim, owner=OURS, **{"aimodelserver.io/weights": source_digest(given.resource, BUILTIN)})
        decided = plan(replace(given, children={"PersistentVolumeClaim": claim}), SETTINGS, NOW)
        assert (decided.replace is pod) is replaced
