"""The conditions, each by a function of the facts: (status, reason, message)."""

from dataclasses import dataclass

from ams_common.reasons import Reason
from ams_common.resource.conditions import ConditionStatus, ConditionType
from ams_kube.objects import Deployment, StatusCondition

from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.pods import Problem
from ams_operator.decide.status.words import download_sentence


@dataclass(frozen=True, slots=True)
class Outcome:
    status: ConditionStatus
    reason: str
    message: str


def judge_all(facts: Facts) -> dict[ConditionType, Outcome]:
    """All conditions, in the order in which people read them."""
    found: dict[ConditionType, Outcome] = {
        "Accepted": accepted(facts),
        "PreflightPassed": preflight_passed(facts),
        "WeightsReady": weights_ready(facts),
        "Available": available(facts),
        "Progressing": progressing(facts),
    }
    return {"Ready": ready(facts, found), **found}


def accepted(facts: Facts) -> Outcome:
    if facts.refusal is not None:
        return _false(facts.refusal)
    if facts.verdict.rejects and facts.blocked:
        return Outcome("False", facts.verdict.reason, facts.verdict.message)
    if (problem := facts.problem("Accepted")) is not None:
        return _false(problem)
    for kind, said in facts.refusals.items():
        if kind != "PersistentVolumeClaim":
            return Outcome("False", Reason.REJECTED, f"The API server refuses the {kind} that this asks for: {said}")
    return Outcome("True", Reason.VALID, "The resource is valid.")


def preflight_passed(facts: Facts) -> Outcome:
    if (problem := facts.problem("PreflightPassed")) is not None:
        return _false(problem)
    verdict = facts.verdict
    if verdict.status == "False" and facts.weights and not facts.blocked:
        return Outcome("True", Reason.PASSED, f"The weights are on the volume. The hub now says: {verdict.message}")
    return Outcome(verdict.status, verdict.reason, verdict.message)


def weights_ready(facts: Facts) -> Outcome:
    claim = facts.claim
    if claim is not None and claim.status.phase == "Lost":
        text = f"The volume behind the PersistentVolumeClaim {claim.metadata.name} is gone; delete the claim."
        return Outcome("False", Reason.VOLUME_LOST, text)
    if (said := facts.refusals.get("PersistentVolumeClaim")) is not None:
        return _refused_claim(said)
    if (problem := facts.problem("WeightsReady")) is not None:
        wanted = facts.resource.spec.cache.storage_class_name
        if problem.reason == Reason.VOLUME_PENDING and wanted is not None:
            return Outcome("False", problem.reason, f"{problem.message} It asks for storage class {wanted!r}.")
        return _false(problem)
    front = facts.front
    if front is not None and front.stage == "downloading" and front.problem is None:
        progress = front.progress
        told = "The download begins."
        if progress is not None:
            phase = progress.phase.capitalize()
            told = f"{phase}: {download_sentence(progress.download)}" if progress.download else progress.comment()
        return Outcome("False", Reason.DOWNLOADING, told)
    if facts.weights:
        return Outcome("True", Reason.VERIFIED, "The weights are there and verified.")
    why = f" {front.problem.message}" if front is not None and front.problem is not None else ""
    return Outcome("Unknown", Reason.NOT_DOWNLOADED_YET, f"No pod has brought the weights yet.{why}")


def _refused_claim(said: str) -> Outcome:
    if "resize" in said or "expan" in said:
        return Outcome("False", Reason.VOLUME_NOT_EXPANDABLE, f"The volume can't grow: {said}")
    return Outcome("False", Reason.VOLUME_PENDING, f"The PersistentVolumeClaim is refused: {said}")


def available(facts: Facts) -> Outcome:
    if facts.resource.spec.suspend:
        return Outcome("False", Reason.SUSPENDED, "spec.suspend is true: it serves nothing until that is taken back.")
    count, asked = facts.ready_pods, facts.wanted.serving
    if count:
        return Outcome("True", Reason.SERVING, f"{count} of {max(asked, count)} pods answer.")
    if asked == 0:
        return Outcome("False", Reason.SCALED_TO_ZERO, "No pod is asked for; the first request starts one.")
    if (problem := facts.problem("Available")) is not None:
        return _false(problem)
    if (problem := facts.problem("Progressing")) is not None:  # its golden prompts
        return Outcome("False", Reason.LOAD_FAILED, problem.message)
    if not facts.pods and (said := _replica_failure(facts.deployment)) is not None:
        return Outcome("False", Reason.UNSCHEDULABLE, f"The pod is refused: {said}")
    return Outcome("False", Reason.STARTING, _starting(facts))


def _starting(facts: Facts) -> str:
    if facts.waits_for_predecessor:
        return "Waits until the objects of the deleted resource of this name are gone."
    if facts.blocked or facts.asking:
        return "Nothing is started before the model has passed its checks."
    front = facts.front
    match front.stage if front is not None else None:
        case "downloading":
            return "The weights are on their way."
        case "loading":
            said = front.progress.comment() if front is not None and front.progress is not None else ""
            return "The model is being loaded" + (f": {said}." if said else ".")
        case "starting":
            return "The pod starts."
        case "scheduling":
            return "The pod waits for a node."
    return "No pod is there yet."


def progressing(facts: Facts) -> Outcome:
    if (problem := facts.problem("Progressing")) is not None:
        return _false(problem)
    deployment = facts.deployment
    if deployment is None:
        return Outcome("False", Reason.COMPLETE, "Nothing is under way.")
    status, wanted = deployment.status, deployment.spec.replicas
    condition = _condition(deployment, "Progressing")
    if condition is not None and condition.reason == "ProgressDeadlineExceeded":
        return Outcome("False", Reason.DEADLINE_EXCEEDED, condition.message)
    if status.observed_generation >= deployment.metadata.generation and (
        status.updated_replicas == status.replicas == status.available_replicas == wanted
    ):
        return Outcome("False", Reason.COMPLETE, "Nothing is under way.")
    if status.replicas > status.updated_replicas and status.updated_replicas < wanted:
        return Outcome(
            "True", Reason.ROLLING_OUT, f"{status.updated_replicas} of {wanted} pods are of the new version."
        )
    return Outcome("True", Reason.SCALING, f"{status.available_replicas} of {wanted} pods are there.")


def ready(facts: Facts, found: dict[ConditionType, Outcome]) -> Outcome:
    """Of the others; Progressing never counts. A model at zero by its own rules is ready."""
    for kind in ("Accepted", "PreflightPassed"):
        if found[kind].status == "False":
            return Outcome("False", found[kind].reason, found[kind].message)
    weights, pods = found["WeightsReady"], found["Available"]
    if facts.resource.spec.suspend:
        return Outcome("False", Reason.SUSPENDED, pods.message)
    if facts.asking and facts.deployment is None:
        return Outcome("False", Reason.STARTING, "The hub is being asked about the model.")
    if facts.wanted.serving == 0:
        if weights.status == "False" and weights.reason not in _ON_THE_WAY:
            return Outcome("False", weights.reason, weights.message)
        return Outcome("True", Reason.SCALED_TO_ZERO, "It is at zero by its own rules; the first request starts it.")
    if pods.status == "True":  # it serves, whatever the newest pod says
        return Outcome("True", "Ready", pods.message)
    first = next((each for each in (weights, pods) if each.status == "False"), weights)
    return Outcome("False", first.reason, first.message)


_ON_THE_WAY = {Reason.DOWNLOADING, Reason.VOLUME_PENDING}


def _replica_failure(deployment: Deployment | None) -> str | None:
    condition = _condition(deployment, "ReplicaFailure") if deployment is not None else None
    return condition.message if condition is not None and condition.status == "True" else None


def _condition(deployment: Deployment, kind: str) -> StatusCondition | None:
    return next((each for each in deployment.status.conditions if each.type == kind), None)


def _false(problem: Problem) -> Outcome:
    return Outcome("False", problem.reason, problem.message)
