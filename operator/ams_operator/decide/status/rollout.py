"""The condition Progressing: whether a rollout or a scaling is under way, and what keeps it from going on."""

from ams_common.quantity import format_duration
from ams_common.reasons import Reason
from ams_kube.objects import StatusCondition

from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.outcome import Outcome
from ams_operator.decide.workload import Workload

# Problems of a new pod that mostly pass within moments; one that doesn't becomes another one.
_PASSING = {Reason.RESTARTING, Reason.STARTING, Reason.DOWNLOAD_WAITS, Reason.HUB_RATE_LIMITED, Reason.DOWNLOADING}


def progressing(facts: Facts) -> Outcome:
    if (problem := facts.problem("Progressing")) is not None:  # its golden prompts
        return Outcome.of(problem)
    workload = facts.workload
    if workload is None:
        return Outcome("False", Reason.COMPLETE, "Nothing is under way.")
    if facts.pull_problem is not None:
        return Outcome("False", Reason.STALLED, _stalled("The rollout", facts, facts.pull_problem.message))
    if facts.pulls is not None:
        return Outcome("True", Reason.ROLLING_OUT, f"The image {facts.pulls} is pulled before the running pod ends.")
    condition = _condition(workload, "Progressing")
    if condition is not None and condition.reason == "ProgressDeadlineExceeded":
        return Outcome("False", Reason.DEADLINE_EXCEEDED, condition.message)
    desired = workload.asked
    if workload.complete:
        if facts.outdated:
            return Outcome("False", Reason.OUTDATED, _outdated(facts))
        return Outcome("False", Reason.COMPLETE, "Nothing is under way.")
    rolls = workload.replicas > workload.updated
    what = "The rollout" if rolls else "Scaling"
    if facts.ready_pods and (why := _why_it_stalls(facts)) is not None:
        return Outcome("False", Reason.STALLED, _stalled(what, facts, why))
    if facts.stands_still_for is not None:
        text = f"Nothing has moved for more than {format_duration(facts.stands_still_for)}."
        return Outcome("False", Reason.DEADLINE_EXCEEDED, f"{text} {_newest_words(facts)}".strip())
    words = _newest_words(facts)
    if rolls:
        text = f"{min(workload.updated, desired)} of {desired} pods are of the new version. {words}"
        return Outcome("True", Reason.ROLLING_OUT, text.strip())
    text = f"{workload.available} of {desired} pods are available. {words}"
    return Outcome("True", Reason.SCALING, text.strip())


def _outdated(facts: Facts) -> str:
    text = "The pods are of an older version of their image or of the operator, and go on serving."
    if facts.renewed is None:
        return f"{text} They are renewed when the resource changes."
    others = [key for key in facts.renewed if key != facts.resource.metadata.key]
    first = f" {', '.join(sorted(others)[:3])} before it." if others else ""
    return f"{text} They are renewed when it is this model's turn.{first}"


def creates_no_pod(workload: Workload | None) -> str | None:
    """Why the cluster refuses to create pods of the workload, as a quota does."""
    condition = _condition(workload, "ReplicaFailure") if workload is not None else None
    return condition.message if condition is not None and condition.status == "True" else None


def _stalled(what: str, facts: Facts, why: str) -> str:
    pods = "1 pod serves" if facts.ready_pods == 1 else f"{facts.ready_pods} pods serve"
    return f"{what} can't go on, and {pods} on: {why}"


def _why_it_stalls(facts: Facts) -> str | None:
    pod = facts.newest_unready_pod
    if pod is not None and pod.problem is not None and pod.problem.reason not in _PASSING:
        return pod.problem.message
    if (message := creates_no_pod(facts.workload)) is not None:
        return f"The cluster creates no pod: {message}"
    return None


def _newest_words(facts: Facts) -> str:
    pod = facts.newest_unready_pod
    return f"The newest pod: {pod.problem.message}" if pod is not None and pod.problem is not None else ""


def _condition(workload: Workload, kind: str) -> StatusCondition | None:
    return next((each for each in workload.conditions if each.type == kind), None)
