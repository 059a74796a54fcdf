"""What a pod tells about its model: how far it is, and what stands in its way."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
from ams_common.lock import Brought
from ams_common.progress import Failure, Progress
from ams_common.reasons import Reason
from ams_common.resource.conditions import ConditionType
from ams_common.resource.status import LockStatus
from ams_kube.objects import ContainerStatus, Pod, TerminatedState

from ams_operator.decide.children.pod import DOWNLOAD, SERVE

Stage = Literal["scheduling", "starting", "downloading", "loading", "ready"]

_IMAGE = {
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError"}
_SECRET_NOT_FOUND = re.compile(r'secrets? "([^"]+)" not found')
_SECRET_KEY = re.compile(r"couldn't find key (\S+) in Secret (\S+)")
_VOLUME = re.compile(r"persistentvolumeclaim|storageclass|unbound|volume node affinity|available volume", re.I)

# What the reason in a termination message belongs to; others are of the container that ended.
_CONDITION_OF: dict[str, ConditionType] = {
    Reason.INVALID_SOURCE: "Accepted",
    Reason.UNSUPPORTED_ARCHITECTURE: "Accepted",
    Reason.GATED_MODEL: "PreflightPassed",
    Reason.BAD_TOKEN: "PreflightPassed",
    Reason.MODEL_NOT_FOUND: "PreflightPassed",
    Reason.REVISION_NOT_FOUND: "PreflightPassed",
    Reason.DISK_FULL: "WeightsReady",
    Reason.CHECKSUM_MISMATCH: "WeightsReady",
    Reason.LOCK_MISMATCH: "WeightsReady",
    Reason.HUB_RATE_LIMITED: "WeightsReady",
    Reason.GOLDEN_PROMPT_FAILED: "Progressing",
}
_SYNONYMS = {"PickledWeights": Reason.INVALID_SOURCE, "InvalidLock": Reason.LOCK_MISMATCH}


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands in the way, as the condition that it makes False."""

    condition: ConditionType
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as far as its model is concerned. `verified`: the weights are on its volume."""

    pod: Pod
    stage: Stage
    verified: bool = False
    lock: LockStatus | None = None  # of the weights that it verified
    problem: Problem | None = None
    progress: Progress | None = None


def living(pods: Iterable[Pod]) -> list[Pod]:
    """Those that aren't about to end or have ended for good, newest first."""
    alive = [pod for pod in pods if pod.metadata.deletion_timestamp is None and pod.status.phase not in _ENDED]
    return sorted(alive, key=lambda pod: (pod.metadata.creation_timestamp or "", pod.metadata.name), reverse=True)


_ENDED = ("Succeeded", "Failed")


def read_pod(pod: Pod, progress: Progress | None, devices: Collection[str]) -> PodView:
    """`devices` are the extended resources that the pod asks for, such as nvidia.com/gpu."""
    if (problem := _unscheduled(pod, devices)) is not None:
        return PodView(pod, "scheduling", problem=problem)
    download = _status(pod.status.init_container_statuses, DOWNLOAD)
    serve = _status(pod.status.container_statuses, SERVE)
    verified = _succeeded(download)
    if serve is not None and serve.ready and verified:
        return PodView(pod, "ready", True, _lock(download))
    if not pod.spec.node_name and not pod.status.init_container_statuses:
        return PodView(pod, "scheduling")
    if not verified:
        if download is None or (download.state.running is None and download.state.terminated is None):
            return PodView(pod, "starting", problem=_problem(download), progress=progress)
        problem = None if _moves(progress) and download.state.running is not None else _problem(download)
        return PodView(pod, "downloading", problem=problem, progress=progress)
    running = serve is not None and serve.state.running is not None
    return PodView(pod, "loading" if running else "starting", True, _lock(download), _problem(serve), progress)


def _status(statuses: Sequence[ContainerStatus], name: str) -> ContainerStatus | None:
    return next((status for status in statuses if status.name == name), None)


def _succeeded(status: ContainerStatus | None) -> bool:
    return status is not None and (
        status.ready or (status.state.terminated is not None and status.state.terminated.exit_code == 0)
    )


def _lock(download: ContainerStatus | None) -> LockStatus | None:
    """What the download said at its end; None where it said nothing, as one of another version."""
    if download is None or download.state.terminated is None:
        return None
    try:
        return msgspec.json.decode(download.state.terminated.message, type=Brought).lock
    except msgspec.DecodeError:
        return None


def _moves(progress: Progress | None) -> bool:
    """A download that goes on after a failure is no longer failing."""
    return progress is not None and progress.download is not None and progress.failure is None


def _unscheduled(pod: Pod, devices: Collection[str]) -> Problem | None:
    if pod.status.init_container_statuses:
        return None  # a node works on it
    condition = next((each for each in pod.status.conditions if each.type == "PodScheduled"), None)
    if condition is None or condition.status != "False" or condition.reason == "SchedulingGated":
        return None
    said = condition.message or condition.reason
    if _VOLUME.search(said):
        return Problem("WeightsReady", Reason.VOLUME_PENDING, f"The volume can't be had: {said}")
    lacking = [device for device in devices if f"Insufficient {device}" in said]
    if lacking:
        return Problem("Available", Reason.INSUFFICIENT_GPU, f"No node has {', '.join(lacking)} free: {said}")
    return Problem("Available", Reason.UNSCHEDULABLE, f"No node takes the pod: {said}")


def _problem(status: ContainerStatus | None) -> Problem | None:
    """What is wrong with a container that isn't ready, by its present state or else by how it ended last."""
    if status is None:
        return None
    waiting = status.state.waiting
    if waiting is not None and waiting.reason in _IMAGE:
        said = f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
        return Problem("Available", Reason.IMAGE_PULL_FAILED, f"The image {status.image} can't be pulled: {said}")
    if waiting is not None and waiting.reason in _CONFIG:
        return _refused(waiting.reason, waiting.message)
    ended = status.state.terminated or status.last_state.terminated
    if ended is None:
        return None
    if ended.exit_code == 0 and (waiting is None or waiting.reason != "CrashLoopBackOff"):
        return None
    return _ended(status, ended)


def _refused(reason: str, message: str) -> Problem:
    if found := _SECRET_NOT_FOUND.search(message):
        return Problem("Accepted", Reason.SECRET_NOT_FOUND, f"There is no Secret {found[1]} in the namespace.")
    if found := _SECRET_KEY.search(message):
        secret = found[2].rstrip(",.").rpartition("/")[2]
        return Problem("Accepted", Reason.SECRET_KEY_MISSING, f"The Secret {secret} has no key {found[1]}.")
    return Problem("Available", Reason.STARTING, f"The container can't start ({reason}): {message}")


def _ended(status: ContainerStatus, ended: TerminatedState) -> Problem:
    part = "the download" if status.name == DOWNLOAD else "the model server"
    if ended.reason == "OOMKilled":
        return Problem(
            "Available",
            Reason.OUT_OF_MEMORY_KILLED,
            f"{part} used more memory than its limit and was killed; raise spec.resources.limits.memory, or choose"
            " smaller weights with spec.quantization.".capitalize(),
        )
    failure = termination_failure(ended.message)
    if failure is not None:
        reason = _SYNONYMS.get(failure.reason, failure.reason)
        if (condition := _CONDITION_OF.get(reason)) is not None:
            return Problem(condition, reason, failure.message)
        if status.name == SERVE:
            prefix = "" if reason == Reason.LOAD_FAILED else f"{reason}: "
            return Problem("Available", Reason.LOAD_FAILED, f"{prefix}{failure.message}")
        if reason == Reason.HUB_UNREACHABLE:
            return Problem("WeightsReady", Reason.DOWNLOADING, f"The download waits for the hub: {failure.message}")
        return Problem("Available", Reason.CRASH_LOOP, f"The download failed ({reason}): {failure.message}")
    how = f"status {ended.exit_code}" + (f", {ended.reason}" if ended.reason not in ("", "Error") else "")
    last = _last_line(ended.message)
    times = f" {status.restart_count + 1} times" if status.restart_count else ""
    told = f"; its last line: {last}" if last else "; it said nothing"
    return Problem("Available", Reason.CRASH_LOOP, f"{part.capitalize()} ended{times} ({how}){told}")


def termination_failure(message: str) -> Failure | None:
    """The JSON line by which a container explains its end; None where it left none."""
    for line in reversed(message.splitlines()):
        if line.lstrip().startswith("{"):
            try:
                return msgspec.json.decode(line, type=Failure)
            except msgspec.DecodeError:
                continue
    return None


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
