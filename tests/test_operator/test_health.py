"""The states of a model as GitOps tools see them: Argo CD by the script of the chart, Flux and others by kstatus."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lupa
import msgspec
import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Progress
from ams_common.resource.spec import ModelDeployment
from ams_kube.objects import AppliedOnly, Deployment, Pod
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.preflight.report import HubReport
from plan_objects import NOW, OURS, SETTINGS, child, pod, resource

ROOT = Path(__file__).parents[2]
SCRIPT = (ROOT / "charts" / "ai-model-server" / "files" / "argocd-health.lua").read_text()

ZERO = {"autoscaling": {"minReplicas": 0}}
DONE = {"ready": True, "state": {"terminated": {"exitCode": 0}}}
SERVING = {"name": "serve", "ready": True, "state": {"running": {}}}
LOADING = {"name": "serve", "state": {"running": {}}}
BACK_OFF = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
KILLED = {"exitCode": 137, "reason": "Error"}
LOOPING = {"name": "serve", "restartCount": 3, "state": BACK_OFF, "lastState": {"terminated": KILLED}}
KILLED_ONCE = {"name": "serve", "restartCount": 1, "state": {"running": {}}, "lastState": {"terminated": KILLED}}
QUOTA = {"type": "ReplicaFailure", "status": "True", "message": "pods is forbidden: exceeded quota"}


def a_pod(name: str, serve: dict[str, Any] | None = None, **download: Any) -> Pod:
    """`serve` is its container once the weights are there; `download` the init container before that."""
    document = {
        "metadata": {
            "name": name,
            "namespace": "models",
            "uid": name,
            "creationTimestamp": f"2026-01-01T00:00:0{name}Z",
        },
        "spec": {"nodeName": "n"},
        "status": {
            "initContainerStatuses": [{"name": "download", **(download or DONE)}],
            "containerStatuses": [serve] if serve is not None else [],
        },
    }
    return msgspec.convert(document, Pod)


def a_deployment(replicas: int, updated: int, available: int, *conditions: dict[str, str], desired: int = 1) -> Any:
    document = {
        "metadata": {"name": "x", "namespace": "x"},
        "spec": {"replicas": desired},
        "status": {
            "replicas": replicas,
            "updatedReplicas": updated,
            "readyReplicas": available,
            "availableReplicas": available,
            "conditions": list(conditions),
        },
    }
    made = msgspec.convert(document, Deployment)
    return msgspec.structs.replace(made, metadata=child(AppliedOnly, owner=OURS).metadata)


def failed_download(reason: str, message: str) -> dict[str, Any]:
    said = msgspec.json.encode({"reason": reason, "message": message}).decode()
    return {"restartCount": 2, "state": BACK_OFF, "lastState": {"terminated": {"exitCode": 1, "message": said}}}


class State(NamedTuple):
    given: Observed
    ready: str  # status and reason
    summary: str
    argo: str
    kstatus: str
    warning: str | None = None  # reason of its Event of type Warning


def state(
    ready: str,
    summary: str,
    argo: str,
    kstatus: str,
    warning: str | None = None,
    /,
    *pods: Pod,
    deployment: Any = None,
    spec: dict[str, Any] | None = None,
    **observed: Any,
) -> State:
    children = {"Deployment": deployment} if deployment is not None else {}
    given = Observed(resource(**(spec or {})), children=children, pods=pods, **observed)
    return State(given, ready, summary, argo, kstatus, warning)


NONE, ONE, UP = a_deployment(0, 0, 0, desired=0), a_deployment(1, 1, 0), a_deployment(1, 1, 1)
ROLLING = a_deployment(2, 1, 1)
AHEAD = {**ZERO, "cache": {"size": "1Gi", "prefetch": True}}
SHARED = {"cache": {"size": "1Gi", "accessMode": "ReadWriteMany"}}
STATES = {
    "at zero": state("True ScaledToZero", "Scaled to zero", "Healthy", "Current", spec=ZERO, deployment=NONE),
    "before the download": state("False NotDownloadedYet", "Pending", "Progressing", "InProgress", spec=AHEAD),
    "downloading": state(
        "False Downloading", "Downloading 50 %", "Progressing", "InProgress", None, a_pod("1", state={"running": {}}),
        deployment=ONE, progress={"1": Progress(Phase.DOWNLOADING, 50.0, download=Download(50, 100))},
    ),
    "downloading ahead": state(
        "False Downloading", "Downloading", "Progressing", "InProgress", None, a_pod("1", state={"running": {}}),
        deployment=ONE, spec=AHEAD,
    ),
    "downloading ahead, without the hub": state(
        "False DownloadWaits", "DownloadWaits", "Progressing", "InProgress", "DownloadWaits",
        a_pod("1", **failed_download("HubUnreachable", "It's away.")), deployment=ONE, spec=AHEAD,
    ),
    "failing ahead": state(
        "False DiskFull", "DiskFull", "Degraded", "Failed", "DiskFull",
        a_pod("1", **failed_download("DiskFull", "Full.")), deployment=ONE, spec=AHEAD,
    ),
    "no volume ahead": state(
        "False VolumePending", "VolumePending", "Progressing", "InProgress", "VolumePending",
        pod('storageclass.storage.k8s.io "golden" not found'), deployment=ONE, spec=AHEAD,
    ),
    "loading": state(
        "False Starting", "Loading", "Progressing", "InProgress", None, a_pod("1", LOADING), deployment=ONE
    ),
    "serving": state("True Ready", "Ready", "Healthy", "Current", None, a_pod("1", SERVING), deployment=UP),
    "killed once": state(
        "False Restarting", "Restarting", "Progressing", "InProgress", "Restarting", a_pod("1", KILLED_ONCE),
        deployment=ONE,
    ),
    "failing": state(
        "False CrashLoop", "CrashLoop", "Degraded", "Failed", "CrashLoop", a_pod("1", LOOPING), deployment=ONE
    ),
    "refused": state(
        "False UnsupportedArchitecture", "UnsupportedArchitecture", "Degraded", "Failed", "UnsupportedArchitecture",
        spec={"source": "hf://acme/mamba"}, report=HubReport(revision="a" * 40, architectures=("MambaModel",)),
    ),
    "rolling": state(
        "True Ready", "Ready", "Progressing", "InProgress", None, a_pod("2", LOADING), a_pod("1", SERVING),
        deployment=ROLLING, spec=SHARED,
    ),
    "rolling, the new pod was killed once": state(
        "True Ready", "Ready", "Progressing", "InProgress", None, a_pod("2", KILLED_ONCE), a_pod("1", SERVING),
        deployment=ROLLING, spec=SHARED,
    ),
    "stuck: the new pod loops": state(
        "True Ready", "Ready", "Degraded", "Failed", "Stalled", a_pod("2", LOOPING), a_pod("1", SERVING),
        deployment=ROLLING, spec=SHARED,
    ),
    "stuck: a quota refuses the new pod": state(
        "True Ready", "Ready", "Degraded", "Failed", "Stalled", a_pod("1", SERVING),
        deployment=a_deployment(1, 0, 1, QUOTA), spec=SHARED,
    ),
    "stuck: nothing moves": state(
        "True Ready", "Ready", "Degraded", "Failed", "DeadlineExceeded", a_pod("2", LOADING), a_pod("1", SERVING),
        deployment=ROLLING, spec=SHARED, moved_at=NOW - 601,
    ),
    "growing": state(
        "True Ready", "Ready 1/2", "Healthy", "Current", None, a_pod("2", LOADING), a_pod("1", SERVING),
        deployment=a_deployment(2, 2, 1, desired=2), spec={**SHARED, "replicas": 2},
    ),
    "stopped": state("False Stopped", "Stopped", "Suspended", "InProgress", spec={"replicas": 0}, deployment=NONE),
    "suspended": state(
        "False Suspended", "Suspended", "Suspended", "InProgress", spec={"suspend": True}, deployment=NONE
    ),
}  # fmt: skip


def told(given: ModelDeployment, decided: Any) -> dict[str, Any]:
    document: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(given, status=decided.status))
    return document


@pytest.mark.parametrize("name", STATES)
def test_argo_cd_and_kstatus_agree_with_ready(name: str) -> None:
    case = STATES[name]
    decided = plan(case.given, SETTINGS, NOW)
    document = told(case.given.resource, decided)
    ready = next(each for each in document["status"]["conditions"] if each["type"] == "Ready")
    assert f"{ready['status']} {ready['reason']}" == case.ready, ready["message"]
    assert document["status"]["summary"] == case.summary
    health = argo_health(document)
    assert (health["status"], kstatus(document)) == (case.argo, case.kstatus), health["message"]
    warnings = [each.reason for each in decided.transitions if each.type == "Warning"]
    assert warnings == ([case.warning] if case.warning is not None else [])
    if ready["status"] == "False":
        assert case.argo != "Healthy"
        assert case.kstatus != "Current"
    else:
        progressing = next(each for each in document["status"]["conditions"] if each["type"] == "Progressing")
        assert (case.argo == "Healthy") == (progressing["reason"] not in ("RollingOut", "Stalled", "DeadlineExceeded"))


@pytest.mark.parametrize("name", STATES)
def test_time_alone_makes_no_other_status(name: str) -> None:
    """Or each status would be the reason of the next one."""
    case = STATES[name]
    first = plan(case.given, SETTINGS, NOW)
    told_already = msgspec.structs.replace(case.given.resource, status=first.status)
    again = plan(replace(case.given, resource=told_already), SETTINGS, NOW + 5)
    assert again.status == first.status
    assert again.transitions == ()


@pytest.mark.parametrize("status", [None, {}, {"conditions": []}])
def test_what_the_operator_has_not_looked_at_is_progressing(status: dict[str, Any] | None) -> None:
    document = msgspec.to_builtins(resource())
    document["status"] = status
    assert argo_health(document)["status"] == "Progressing"


def test_a_new_generation_is_progressing_whatever_the_old_one_was() -> None:
    case = STATES["serving"]
    document = told(case.given.resource, plan(case.given, SETTINGS, NOW))
    document["metadata"]["generation"] = 2
    assert (argo_health(document)["status"], kstatus(document)) == ("Progressing", "InProgress")


def test_what_a_stuck_rollout_says_has_the_reason() -> None:
    expected = {
        "stuck: the new pod loops": "The rollout can't go on, and 1 pod serves on: The model server was killed",
        "stuck: a quota refuses the new pod": "The cluster creates no pod: pods is forbidden: exceeded quota",
        "stuck: nothing moves": "Nothing has moved for more than 10m00s.",
    }
    for name, words in expected.items():
        decided = plan(STATES[name].given, SETTINGS, NOW)
        progressing = next(each for each in decided.status.conditions or () if each.type == "Progressing")
        assert progressing.status == "False"
        assert words in progressing.message
        assert progressing.message in (decided.status.message or ""), "kubectl get tells it too"
        assert any(words in each.message for each in decided.transitions)


def test_a_failed_download_is_told_on_when_the_model_is_back_at_zero() -> None:
    failing = Observed(
        resource(**ZERO),
        children={"Deployment": a_deployment(1, 1, 0)},
        pods=(a_pod("1", **failed_download("DiskFull", "Full.")),),
        replicas=1,
    )
    first = plan(failing, SETTINGS, NOW)
    at_zero = Observed(
        msgspec.structs.replace(failing.resource, status=first.status),
        children={"Deployment": a_deployment(0, 0, 0, desired=0)},
        replicas=0,
    )
    status = plan(at_zero, SETTINGS, NOW + 300).status
    ready = next(each for each in status.conditions or () if each.type == "Ready")
    assert (ready.status, ready.reason) == ("False", "DiskFull")
    assert status.phase == "Failed"


def argo_health(document: dict[str, Any]) -> dict[str, str]:
    """As Argo CD runs the script: the object is the global `obj`, without tables of libraries that it needn't."""
    lua = lupa.LuaRuntime(unpack_returned_tuples=True)  # type: ignore[attr-defined]
    lua.globals().obj = lua.table_from(document, recursive=True)
    result = lua.execute(SCRIPT)
    return {"status": result["status"], "message": result["message"]}


def kstatus(document: dict[str, Any]) -> str:
    """By the documented rules for kinds that it doesn't know.

    https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
    """
    metadata, status = document["metadata"], document.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating"
    if status.get("observedGeneration") not in (None, metadata.get("generation")):
        return "InProgress"
    conditions = {each["type"]: each["status"] for each in status.get("conditions", ())}
    if conditions.get("Reconciling") == "True":
        return "InProgress"
    if conditions.get("Stalled") == "True":
        return "Failed"
    return {None: "Current", "True": "Current"}.get(conditions.get("Ready"), "InProgress")
