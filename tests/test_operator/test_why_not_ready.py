"""Every reason that a condition may carry, provoked by what a cluster really says."""

import json
from typing import Any

import pytest
from ams_kube.client import Client
from models import BACK_OFF, DOWNLOADED, condition, container, create, ended, model, pod_of, report, until_condition
from operator_process import OperatorProcess


def failure(reason: str, message: str) -> str:
    return json.dumps({"reason": reason, "message": message, "retryable": False}) + "\n"


def download_failed(reason: str, message: str) -> dict[str, Any]:
    last = ended(f"ams-pod download: asking the hub\n{failure(reason, message)}")
    return {"initContainerStatuses": [container("download", waiting=BACK_OFF, restarts=2, last=last)]}


def serve(**state: Any) -> dict[str, Any]:
    return {"initContainerStatuses": [DOWNLOADED], "containerStatuses": [container("serve", **state)]}


def init(**state: Any) -> dict[str, Any]:
    return {"initContainerStatuses": [container("download", **state)]}


GATED = "acme/gated is gated; see its page: accept its terms there."
# What the kubelet reports, and what the resource then says: name → (pod's status, condition, status, reason, words)
CASES: dict[str, tuple[dict[str, Any], str, str, str, str]] = {
    "image": (
        init(waiting={"reason": "ImagePullBackOff", "message": 'Back-off pulling image "ams-pod:test"'}),
        "Available",
        "False",
        "ImagePullFailed",
        'The image ams-pod:test can\'t be pulled: ImagePullBackOff: Back-off pulling image "ams-pod:test"',
    ),
    "secret": (
        init(waiting={"reason": "CreateContainerConfigError", "message": 'secret "hub" not found'}),
        "Accepted",
        "False",
        "SecretNotFound",
        "There is no Secret hub in the namespace.",
    ),
    "secret-key": (
        init(
            waiting={
                "reason": "CreateContainerConfigError",
                "message": "couldn't find key token in Secret models/hub",
            }
        ),
        "Accepted",
        "False",
        "SecretKeyMissing",
        "The Secret hub has no key token.",
    ),
    "gated": (download_failed("GatedModel", GATED), "PreflightPassed", "False", "GatedModel", GATED),
    "not-found": (
        download_failed("ModelNotFound", "The hub has no model acme/gone."),
        "PreflightPassed",
        "False",
        "ModelNotFound",
        "The hub has no model acme/gone.",
    ),
    "revision": (
        download_failed("RevisionNotFound", "acme/tiny has no revision 'x'."),
        "PreflightPassed",
        "False",
        "RevisionNotFound",
        "acme/tiny has no revision 'x'.",
    ),
    "bad-token": (
        download_failed("BadToken", "The hub refused the token (401)."),
        "PreflightPassed",
        "False",
        "BadToken",
        "The hub refused the token (401).",
    ),
    "disk-full": (
        download_failed("DiskFull", "/models has 1 GiB free and 7 GiB more are needed; enlarge the volume."),
        "WeightsReady",
        "False",
        "DiskFull",
        "enlarge the volume",
    ),
    "checksum": (
        download_failed("ChecksumMismatch", "model.safetensors has sha256 0, the hub says 1."),
        "WeightsReady",
        "False",
        "ChecksumMismatch",
        "the hub says 1",
    ),
    "lock": (
        download_failed("LockMismatch", "model.safetensors has sha256 0, the lock says 1; nothing is served."),
        "WeightsReady",
        "False",
        "LockMismatch",
        "nothing is served",
    ),
    "rate-limit": (
        download_failed("HubRateLimited", "The hub limits the rate of requests (429)."),
        "WeightsReady",
        "False",
        "HubRateLimited",
        "(429)",
    ),
    "hub-away": (
        download_failed("HubUnreachable", "The hub can't be reached."),
        "WeightsReady",
        "False",
        "DownloadWaits",
        "The download waits for the hub: The hub can't be reached.",
    ),
    "source": (
        download_failed("InvalidSource", "weights==1.0 has no file x."),
        "Accepted",
        "False",
        "InvalidSource",
        "has no file x",
    ),
    "architecture": (
        download_failed("UnsupportedArchitecture", "MambaModel is not supported."),
        "Accepted",
        "False",
        "UnsupportedArchitecture",
        "MambaModel",
    ),
    "volume-not-writable": (
        download_failed("VolumeNotWritable", "/models can't be used (Permission denied)."),
        "WeightsReady",
        "False",
        "VolumeNotWritable",
        "/models can't be used",
    ),
    "oom-download": (
        init(waiting=BACK_OFF, restarts=1, last=ended(code=137, reason="OOMKilled")),
        "Available",
        "False",
        "OutOfMemoryKilled",
        "The download used more memory than its limit, was killed 2 times",
    ),
    "oom": (
        serve(waiting=BACK_OFF, restarts=3, last=ended(code=137, reason="OOMKilled")),
        "Available",
        "False",
        "OutOfMemoryKilled",
        "raise spec.resources.limits.memory",
    ),
    "crash-loop": (
        serve(waiting=BACK_OFF, restarts=4, last=ended("loading\nValueError: boom\n")),
        "Available",
        "False",
        "CrashLoop",
        "The model server ended (status 1) 5 times; its last line: ValueError: boom",
    ),
    "load-failed": (
        serve(running={}, restarts=1, last=ended(failure("LoadFailed", "ValueError: head_dim is odd"))),
        "Available",
        "False",
        "LoadFailed",
        "ValueError: head_dim is odd",
    ),
    "golden": (
        serve(waiting=BACK_OFF, last=ended(failure("GoldenPromptFailed", "'2+2' was answered with '5'"))),
        "Progressing",
        "False",
        "GoldenPromptFailed",
        "'2+2' was answered with '5'",
    ),
    "golden-never": (
        serve(waiting=BACK_OFF, last=ended(failure("GoldenPromptFailed", "'2+2' was answered with '5'"))),
        "Available",
        "False",
        "LoadFailed",
        "'2+2' was answered with '5'",
    ),
    "loading": (serve(running={}), "Available", "False", "Starting", "The model is being loaded."),
    "downloading": (init(running={}), "WeightsReady", "False", "Downloading", "The download begins."),
    "ready": (serve(running={}, ready=True), "Available", "True", "Serving", "1 of 1 pods answer."),
    "verified": (serve(running={}), "WeightsReady", "True", "Verified", "verified"),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_the_kubelet_says_is_what_the_resource_says(
    kube: Client, home: str, operator: OperatorProcess, name: str
) -> None:
    status, kind, value, reason, words = CASES[name]
    await create(kube, home, name, model())
    await report(kube, await pod_of(kube, home, name), **status)
    resource = await until_condition(kube, home, name, kind, value, reason, words)
    ready = condition(resource, "Ready")
    assert ready is not None
    assert ready.status == ("True" if name == "ready" else "False")
    if kind in ("Accepted", "PreflightPassed", "WeightsReady") and value == "False":
        assert (ready.reason, ready.message) == (reason, condition(resource, kind).message)  # type: ignore[union-attr]
    assert resource.status is not None
    assert resource.status.message, "a person reads why"
    if value == "False" and reason not in ("Starting", "Downloading", "GoldenPromptFailed"):
        assert resource.status.summary == reason
