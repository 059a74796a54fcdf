"""How far a model is, for people: phase, summary (the column of `kubectl get`), message."""

from collections.abc import Mapping
from dataclasses import dataclass

from ams_common.lifecycle import Phase
from ams_common.reasons import Reason, row_of
from ams_common.resource.conditions import ConditionType

from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.formatting import download_sentence, percent
from ams_operator.decide.status.outcome import Outcome

# While Ready has one of these, the newest pod shows more than the reason does.
_UNDER_WAY = (Reason.STARTING, Reason.DOWNLOADING, Reason.NOT_DOWNLOADED_YET)


@dataclass(frozen=True, slots=True)
class PhaseStatus:
    """`phase` is a stage; status has its title."""

    phase: Phase
    summary: str
    message: str


def phase_of(facts: Facts, outcomes: Mapping[ConditionType, Outcome]) -> PhaseStatus:
    ready = outcomes["Ready"]
    if ready.reason == Reason.SUSPENDED:
        return PhaseStatus(Phase.SUSPENDED, "Suspended", ready.message)
    if ready.status == "True":
        return _ready(facts, ready, outcomes["Progressing"])
    if facts.preflight_pending and facts.workload is None and ready.reason == Reason.STARTING:
        return PhaseStatus(Phase.PENDING, "Asking the hub", ready.message)
    if ready.reason in _UNDER_WAY:
        return _under_way(facts)
    row = row_of(ready.reason)
    return PhaseStatus(row.phase if row is not None else Phase.FAILED, ready.reason, ready.message)


def _ready(facts: Facts, ready: Outcome, progressing: Outcome) -> PhaseStatus:
    newest = facts.newest_unready_pod
    count, desired = facts.ready_pods, facts.replicas.serving
    if not count:
        return PhaseStatus(Phase.IDLE, "Scaled to zero", ready.message)
    summary = "Ready" if count >= desired else f"Ready {count}/{desired}"
    if progressing.reason in (Reason.STALLED, Reason.DEADLINE_EXCEEDED):
        return PhaseStatus(Phase.READY, summary, f"{ready.message} {progressing.message}")
    if newest is not None and newest.problem is not None:
        return PhaseStatus(Phase.READY, summary, f"{ready.message} The newest pod: {newest.problem.message}")
    return PhaseStatus(Phase.READY, summary, ready.message)


def _under_way(facts: Facts) -> PhaseStatus:
    pod = facts.newest_unready_pod
    if pod is None:
        message = "Waits until the objects of the deleted resource of this name are gone."
        return PhaseStatus(Phase.PENDING, "Pending", message if facts.waits_for_predecessor else "No pod exists yet.")
    progress, share = pod.progress, percent(pod.progress)
    step = pod.stage
    if progress is not None and progress.phase.stage is Phase.DOWNLOADING and pod.stage is Phase.DOWNLOADING:
        step = progress.phase
    name = step.value.capitalize()
    summary = name if share is None else f"{name} {share} %"
    if progress is not None and progress.download is not None:
        return PhaseStatus(pod.stage, summary, download_sentence(progress.download))
    if pod.problem is not None:
        return PhaseStatus(pod.stage, summary, pod.problem.message)
    return PhaseStatus(pod.stage, summary, progress.comment() if progress is not None else f"{name}.")
