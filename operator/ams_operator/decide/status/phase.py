"""The words for people: phase, summary (the column of `kubectl get`), message."""

from collections.abc import Mapping
from dataclasses import dataclass

from ams_common.reasons import Reason
from ams_common.resource.conditions import ConditionType

from ams_operator.decide.status.conditions import Outcome
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.words import download_sentence, percent


@dataclass(frozen=True, slots=True)
class Phase:
    phase: str
    summary: str
    message: str


# Reasons that may pass by themselves, and the phase that they are part of; any other reason is a failure.
_WAITS: dict[str, str] = {
    Reason.STARTING: "Starting",
    Reason.DOWNLOADING: "Downloading",
    Reason.NOT_DOWNLOADED_YET: "Starting",
    Reason.VOLUME_PENDING: "Pending",
    Reason.UNSCHEDULABLE: "Scheduling",
    Reason.INSUFFICIENT_GPU: "Scheduling",
    Reason.HUB_RATE_LIMITED: "Downloading",
}
_STAGES = {"scheduling": "Scheduling", "starting": "Starting", "downloading": "Downloading", "loading": "Loading"}


def phase_of(facts: Facts, outcomes: Mapping[ConditionType, Outcome]) -> Phase:
    ready = outcomes["Ready"]
    if ready.reason == Reason.SUSPENDED:
        return Phase("Suspended", "Suspended", ready.message)
    if facts.ready_pods and ready.status == "True":
        return _serving(facts, ready)
    if ready.status == "True":
        front = facts.front
        if facts.wanted.prefetch and front is not None and front.stage == "downloading":
            return _under_way(facts)
        return Phase("Idle", "Scaled to zero", ready.message)
    if facts.asking and facts.deployment is None and ready.reason == Reason.STARTING:
        return Phase("Pending", "Asking the hub", ready.message)
    if ready.reason in (Reason.STARTING, Reason.DOWNLOADING, Reason.NOT_DOWNLOADED_YET):
        return _under_way(facts)
    return Phase(_WAITS.get(ready.reason, "Failed"), ready.reason, ready.message)


def _serving(facts: Facts, ready: Outcome) -> Phase:
    count, asked = facts.ready_pods, facts.wanted.serving
    summary = "Ready" if count >= asked else f"Ready {count}/{asked}"
    front = facts.front
    if front is not None and front.problem is not None:
        return Phase("Ready", summary, f"{ready.message} The newest pod: {front.problem.message}")
    return Phase("Ready", summary, ready.message)


def _under_way(facts: Facts) -> Phase:
    front = facts.front
    if front is None:
        message = "Waits until the objects of the deleted resource of this name are gone."
        return Phase("Pending", "Pending", message if facts.waits_for_predecessor else "No pod is there yet.")
    phase = _STAGES.get(front.stage, "Starting")
    progress, share = front.progress, percent(front.progress)
    word = phase
    if front.stage == "downloading" and progress is not None and progress.phase in ("verifying", "converting"):
        word = progress.phase.capitalize()
    summary = word if share is None else f"{word} {share} %"
    if progress is not None and progress.download is not None:
        return Phase(phase, summary, download_sentence(progress.download))
    if front.problem is not None:
        return Phase(phase, summary, front.problem.message)
    return Phase(phase, summary, progress.comment() if progress is not None else f"{word}.")
