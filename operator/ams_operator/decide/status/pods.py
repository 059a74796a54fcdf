"""How far a pod is with its model, and what stands in its way, by what the kubelet and the scheduler report."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from ams_common.lifecycle import Phase
from ams_common.lock import DownloadResult
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress
from ams_common.reasons import Reason
from ams_common.resource.status import LockStatus
from ams_kube.objects import ContainerStatus, Pod

from ams_operator.decide.children.engine import ENGINE
from ams_operator.decide.children.pod import DOWNLOAD, SERVE
from ams_operator.decide.status.endings import container_problem, held_back_seconds
from ams_operator.decide.status.problem import Problem

_SCHEDULING_SECONDS = 10.0  # a volume is being made, or the pod before still holds the GPU: no news yet
_VOLUME = re.compile(r"persistentvolumeclaim|storageclass|unbound|volume node affinity|available volume", re.I)


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod as far as its model is concerned. `verified`: the weights are on its volume."""

    pod: Pod
    stage: Phase  # SCHEDULING, STARTING, DOWNLOADING, LOADING or READY
    verified: bool = False
    lock: LockStatus | None = None  # of the weights that it verified
    problem: Problem | None = None
    held_back_seconds: int = 0  # until its server, which had been ready, is started again
    progress: Progress | None = None


def living(pods: Iterable[Pod]) -> list[Pod]:
    """Those that aren't about to end or have ended for good, newest first."""
    alive = [pod for pod in pods if pod.metadata.deletion_timestamp is None and pod.status.phase not in _ENDED]
    return sorted(alive, key=lambda pod: (pod.metadata.creation_timestamp or "", pod.metadata.name), reverse=True)


_ENDED = ("Succeeded", "Failed")


def read_pod(pod: Pod, progress: Progress | None, devices: Collection[str], now: float) -> PodView:
    """`devices` are the extended resources that the pod asks for, as nvidia.com/gpu; `now` in seconds since 1970."""
    if (problem := _unscheduled(pod, devices)) is not None:
        return PodView(pod, Phase.SCHEDULING, problem=None if scheduling_seconds_left(pod, now) else problem)
    download = _status(pod.status.init_container_statuses, DOWNLOAD)
    serve = _status(pod.status.container_statuses, SERVE)
    engine = _status(pod.status.container_statuses, ENGINE)
    verified = _succeeded(download)
    if serve is not None and serve.ready and verified and (engine is None or engine.state.running is not None):
        return PodView(pod, Phase.READY, True, _lock(download))
    if not pod.spec.node_name and not pod.status.init_container_statuses:
        return PodView(pod, Phase.SCHEDULING)
    if not verified:
        if download is None or (download.state.running is None and download.state.terminated is None):
            return PodView(pod, Phase.STARTING, problem=container_problem(pod, download), progress=progress)
        problem = None if _moves(progress) and download.state.running is not None else container_problem(pod, download)
        return PodView(pod, Phase.DOWNLOADING, problem=problem, progress=progress)
    running = serve is not None and serve.state.running is not None
    stage = Phase.LOADING if running else Phase.STARTING
    held_back = max(held_back_seconds(pod, serve), held_back_seconds(pod, engine))
    # Without its engine nothing can be served: what is wrong with that comes first.
    problem = _unless_running(pod, engine) or container_problem(pod, serve) or container_problem(pod, engine)
    return PodView(pod, stage, True, _lock(download), problem, held_back, progress)


def worker_problem(pod: Pod, devices: Collection[str], now: float) -> Problem | None:
    """What keeps a pod on another node than its leader's from joining it."""
    problem = _unscheduled(pod, devices)
    if problem is not None:
        found = None if scheduling_seconds_left(pod, now) else problem
    elif not _succeeded(download := _status(pod.status.init_container_statuses, DOWNLOAD)):
        found = container_problem(pod, download)
    else:
        found = container_problem(pod, _status(pod.status.container_statuses, ENGINE))
    return Problem(found.reason, f"Pod {pod.metadata.name}: {found.message}") if found is not None else None


def _unless_running(pod: Pod, status: ContainerStatus | None) -> Problem | None:
    running = status is not None and status.state.running is not None
    return None if running else container_problem(pod, status)


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


def scheduling_seconds_left(pod: Pod, now: float) -> float:
    """How long it isn't told yet that no node takes the pod, as that often passes; 0 if it is time to."""
    condition = pod.condition("PodScheduled")
    if condition is None or condition.status != "False" or not condition.last_transition_time:
        return 0.0
    try:
        since = datetime.fromisoformat(condition.last_transition_time).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return max(0.0, min(since + _SCHEDULING_SECONDS - now, _SCHEDULING_SECONDS))


def _unscheduled(pod: Pod, devices: Collection[str]) -> Problem | None:
    if pod.status.init_container_statuses:
        return None  # a node works on it
    condition = pod.condition("PodScheduled")
    if condition is None or condition.status != "False" or condition.reason == "SchedulingGated":
        return None
    message = condition.message or condition.reason
    if _VOLUME.search(message):
        return Problem(Reason.VOLUME_PENDING, f"The volume can't be bound: {message}")
    lacking = [device for device in devices if f"Insufficient {device}" in message]
    if lacking:
        return Problem(Reason.INSUFFICIENT_GPU, f"No node has {', '.join(lacking)} free: {message}")
    return Problem(Reason.UNSCHEDULABLE, f"No node takes the pod: {message}")
