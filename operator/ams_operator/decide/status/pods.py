"""How far a pod is with its model, and what stands in its way, by what the kubelet and the scheduler report."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from ams_common.lifecycle import Phase
from ams_common.lock import DownloadResult
from ams_common.outside import InvalidJson, read_json
from ams_common.plain import plain_failure, plain_text
from ams_common.progress import Failure, Progress
from ams_common.reasons import ROWS, Reason, row_of
from ams_common.resource.conditions import ConditionType
from ams_common.resource.status import LockStatus
from ams_kube.objects import ContainerStatus, Pod, TerminatedState

from ams_operator.decide.children.pod import DOWNLOAD, SERVE

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


@dataclass(frozen=True, slots=True)
class Problem:
    """What stands in the way of a model."""

    reason: Reason
    message: str

    @property
    def condition(self) -> ConditionType:
        """The one that it makes False."""
        return ROWS[self.reason].condition


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as far as its model is concerned. `verified`: the weights are on its volume."""

    pod: Pod
    stage: Phase  # SCHEDULING, STARTING, DOWNLOADING, LOADING or READY
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
        return PodView(pod, Phase.SCHEDULING, problem=problem)
    download = _status(pod.status.init_container_statuses, DOWNLOAD)
    serve = _status(pod.status.container_statuses, SERVE)
    verified = _succeeded(download)
    if serve is not None and serve.ready and verified:
        return PodView(pod, Phase.READY, True, _lock(download))
    if not pod.spec.node_name and not pod.status.init_container_statuses:
        return PodView(pod, Phase.SCHEDULING)
    if not verified:
        if download is None or (download.state.running is None and download.state.terminated is None):
            return PodView(pod, Phase.STARTING, problem=_problem(download), progress=progress)
        problem = None if _moves(progress) and download.state.running is not None else _problem(download)
        return PodView(pod, Phase.DOWNLOADING, problem=problem, progress=progress)
    running = serve is not None and serve.state.running is not None
    stage = Phase.LOADING if running else Phase.STARTING
    return PodView(pod, stage, True, _lock(download), _problem(serve), progress)


def _status(statuses: Sequence[ContainerStatus], name: str) -> ContainerStatus | None:
    return next((status for status in statuses if status.name == name), None)


def _succeeded(status: ContainerStatus | None) -> bool:
    return status is not None and (
        status.ready or (status.state.terminated is not None and status.state.terminated.exit_code == 0)
    )


def _lock(download: ContainerStatus | None) -> LockStatus | None:
    """The lock in the download's termination message; None if there is none, as of another version."""
    if download is None or download.state.terminated is None:
        return None
    try:
        return read_json(download.state.terminated.message, DownloadResult).lock
    except InvalidJson:
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
    message = condition.message or condition.reason
    if _VOLUME.search(message):
        return Problem(Reason.VOLUME_PENDING, f"The volume can't be bound: {message}")
    lacking = [device for device in devices if f"Insufficient {device}" in message]
    if lacking:
        return Problem(Reason.INSUFFICIENT_GPU, f"No node has {', '.join(lacking)} free: {message}")
    return Problem(Reason.UNSCHEDULABLE, f"No node takes the pod: {message}")


def _problem(status: ContainerStatus | None) -> Problem | None:
    """What is wrong with a container that isn't ready, by its present state or else by how it ended last."""
    if status is None:
        return None
    waiting = status.state.waiting
    if waiting is not None and waiting.reason in _IMAGE:
        detail = f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason
        return Problem(Reason.IMAGE_PULL_FAILED, f"The image {status.image} can't be pulled: {detail}")
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
        return Problem(Reason.SECRET_NOT_FOUND, f"There is no Secret {found[1]} in the namespace.")
    if found := _SECRET_KEY.search(message):
        secret = found[2].rstrip(",.").rpartition("/")[2]
        return Problem(Reason.SECRET_KEY_MISSING, f"The Secret {secret} has no key {found[1]}.")
    return Problem(Reason.STARTING, f"The container can't start ({reason}): {message}")


def _ended(status: ContainerStatus, ended: TerminatedState) -> Problem:
    part = "The download" if status.name == DOWNLOAD else "The model server"
    if ended.reason == "OOMKilled":
        return Problem(
            Reason.OUT_OF_MEMORY_KILLED,
            f"{part} used more memory than its limit and was killed; raise spec.resources.limits.memory, or choose"
            " smaller weights with spec.quantization.",
        )
    if (failure := termination_failure(ended.message)) is not None:
        return _of_failure(failure, downloads=status.name == DOWNLOAD)
    how = f"status {ended.exit_code}" + (f", {ended.reason}" if ended.reason not in ("", "Error") else "")
    times = f" {status.restart_count + 1} times" if status.restart_count else ""
    line = _last_line(ended.message)
    detail = f"; its last line: {line}" if line else "; it left no message"
    return Problem(Reason.CRASH_LOOP, f"{part} ended{times} ({how}){detail}")


def _of_failure(failure: Failure, *, downloads: bool) -> Problem:
    """The failure that a container reports. A pod of another version may have a reason that isn't known here."""
    if failure.reason == Reason.HUB_UNREACHABLE:
        return Problem(Reason.DOWNLOADING, f"The download waits for the hub: {failure.message}")
    if row_of(failure.reason) is not None:
        return Problem(Reason(failure.reason), failure.message)
    other = Reason.DOWNLOAD_FAILED if downloads else Reason.LOAD_FAILED
    return Problem(other, f"{failure.reason}: {failure.message}")


def termination_failure(message: str) -> Failure | None:
    """The JSON line by which a container explains its end; None if there is none."""
    for line in reversed(message.splitlines()):
        if line.lstrip().startswith("{"):
            try:
                return plain_failure(read_json(line, Failure))
            except InvalidJson:
                continue
    return None


def _last_line(message: str) -> str:
    lines = [line for line in message.splitlines() if line.strip()]
    return plain_text(lines[-1], 500) if lines else ""
