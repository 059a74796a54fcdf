"""Why a container isn't running: what it waits for, how it ended, and whether it ends again and again."""

import re
import signal

from ams_common.outside import InvalidJson, read_json
from ams_common.plain import plain_failure, plain_text
from ams_common.progress import Failure
from ams_common.reasons import Reason, row_of
from ams_kube.objects import ContainerStatus, Pod, TerminatedState

from ams_operator.decide.children.engine import ENGINE
from ams_operator.decide.children.pod import DOWNLOAD
from ams_operator.decide.status.problem import Problem

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
_BACK_OFF = re.compile(r"back-off (?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)? restarting")
_LONGEST_WAIT_SECONDS = 100  # a server that served is waited for, unless the kubelet starts it again later than this
_ENDS_OF_A_LOOP = 2  # of a server that did not get ready in between
_SIGNALLED = 128  # a shell's exit status, and the kubelet's, of a process that a signal ended: 128 and its number


def container_problem(pod: Pod, status: ContainerStatus | None) -> Problem | None:
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
    return _ended(pod, status, ended)


def _refused(reason: str, message: str) -> Problem:
    if found := _SECRET_NOT_FOUND.search(message):
        return Problem(Reason.SECRET_NOT_FOUND, f"There is no Secret {found[1]} in the namespace.")
    if found := _SECRET_KEY.search(message):
        secret = found[2].rstrip(",.").rpartition("/")[2]
        return Problem(Reason.SECRET_KEY_MISSING, f"The Secret {secret} has no key {found[1]}.")
    return Problem(Reason.STARTING, f"The container can't start ({reason}): {message}")


def _ended(pod: Pod, status: ContainerStatus, ended: TerminatedState) -> Problem:
    part = _PARTS.get(status.name, "The model server")
    if ended.reason != "OOMKilled" and (failure := termination_failure(ended.message)) is not None:
        return _of_failure(failure, downloads=status.name == DOWNLOAD)
    how = _how(ended)
    if not loops(pod, status, ended):
        return Problem(Reason.RESTARTING, f"{part} {how} and is started again.")
    times = f" {status.restart_count + 1} times" if status.restart_count else ""
    if ended.reason == "OOMKilled":
        return Problem(
            Reason.OUT_OF_MEMORY_KILLED,
            f"{part} {how}{times}; {_MORE_MEMORY.get(status.name, _MORE_MEMORY[''])}.",
        )
    return Problem(Reason.CRASH_LOOP, f"{part} {how}{times}{_last_words(ended)}")


_PARTS = {DOWNLOAD: "The download", ENGINE: "The engine"}
_MORE_MEMORY = {
    "": "raise spec.resources.limits.memory, or choose smaller weights with spec.quantization",
    ENGINE: "raise the memory of spec.engine.resources (or spec.resources), or lower spec.limits.contextTokens or"
    " concurrentRequests",
}


def loops(pod: Pod, status: ContainerStatus, ended: TerminatedState) -> bool:
    """Whether a container that `ended` will end again, so that waiting for it would be in vain.

    One that had been ready is worth waiting for, as long as the kubelet starts it again soon. One that ended before it
    was ready, twice or with the kubelet backing off from it, will hardly do better the next time.
    """
    if _had_been_ready(pod, ended):
        return _back_off_seconds(status) > _LONGEST_WAIT_SECONDS
    return _backs_off(status) or status.restart_count >= _ENDS_OF_A_LOOP


def held_back_seconds(pod: Pod, status: ContainerStatus | None) -> int:
    """For how long the kubelet doesn't start a server again that had been ready; 0 for any other."""
    ended = status.last_state.terminated if status is not None else None
    if status is None or ended is None or not _had_been_ready(pod, ended):
        return 0
    return _back_off_seconds(status)


def _had_been_ready(pod: Pod, ended: TerminatedState) -> bool:
    """The pod stopped being ready after the run began that then ended: so it was ready in that run."""
    ready = pod.condition("Ready")
    if ready is None or ready.status != "False" or not ready.last_transition_time or not ended.started_at:
        return False
    return ready.last_transition_time > ended.started_at  # both in UTC, to the second


def _backs_off(status: ContainerStatus) -> bool:
    return status.state.waiting is not None and status.state.waiting.reason == "CrashLoopBackOff"


def _back_off_seconds(status: ContainerStatus) -> int:
    """Of `back-off 2m40s restarting failed container=serve pod=...`; 0 where the words are others."""
    waiting = status.state.waiting
    found = _BACK_OFF.search(waiting.message) if waiting is not None and _backs_off(status) else None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    return 3600 * hours + 60 * minutes + seconds


def _how(ended: TerminatedState) -> str:
    """`was killed by signal 9 (SIGKILL)`, `ended (status 2)`."""
    if ended.reason == "OOMKilled":
        return "used more memory than its limit, was killed"
    number = ended.signal or (ended.exit_code - _SIGNALLED if ended.exit_code > _SIGNALLED else 0)
    try:
        return f"was killed by signal {number} ({signal.Signals(number).name})"
    except ValueError:
        reason = f", {ended.reason}" if ended.reason not in ("", "Error", "Completed") else ""
        return f"ended (status {ended.exit_code}{reason})"


def _last_words(ended: TerminatedState) -> str:
    """The last line of a server that ended by itself. One that was killed said nothing about that."""
    if _how(ended).startswith("was killed"):
        return "."
    lines = [line for line in ended.message.splitlines() if line.strip()]
    return f"; its last line: {plain_text(lines[-1], 500)}" if lines else "; it left no message"


def _of_failure(failure: Failure, *, downloads: bool) -> Problem:
    """The failure that a container reports. A pod of another version may have a reason that isn't known here."""
    if failure.reason == Reason.HUB_UNREACHABLE:
        return Problem(Reason.DOWNLOAD_WAITS, f"The download waits for the hub: {failure.message}")
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
