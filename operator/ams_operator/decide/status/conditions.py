"""The conditions, each by a function of the facts: (status, reason, message)."""

from ams_common.lifecycle import Phase
from ams_common.reasons import Reason, row_of
from ams_common.resource.conditions import ConditionType
from ams_common.resource.status import conditions_of

from ams_operator.decide.status.adapters import adapters_ready
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.formatting import download_sentence
from ams_operator.decide.status.outcome import Outcome
from ams_operator.decide.status.pods import PodView
from ams_operator.decide.status.rollout import creates_no_pod, progressing

_DEFAULT_REPLICAS = 1  # that of the schema, which looks as if nobody had set it


def judge_all(facts: Facts) -> dict[ConditionType, Outcome]:
    """All conditions, in the order in which people read them. AdaptersReady isn't part of Ready: the model serves."""
    parts: dict[ConditionType, Outcome] = {
        "Accepted": accepted(facts),
        "PreflightPassed": preflight_passed(facts),
        "WeightsReady": weights_ready(facts),
        "Available": available(facts),
        **({"AdaptersReady": adapters_ready(facts.adapters)} if facts.adapters is not None else {}),
        "Progressing": progressing(facts),
    }
    return {"Ready": ready_of_all(facts, parts), **parts}


def accepted(facts: Facts) -> Outcome:
    if facts.rejection is not None:
        return Outcome.of(facts.rejection)
    if facts.verdict.rejects and facts.blocked:
        return Outcome("False", facts.verdict.reason, facts.verdict.message)
    if (problem := facts.problem("Accepted")) is not None:
        return Outcome.of(problem)
    for kind, message in facts.refused_children.items():
        if kind != "PersistentVolumeClaim":
            return Outcome("False", Reason.REJECTED, f"The API server rejects the {kind} of this model: {message}")
    if facts.names.lost:
        return Outcome("True", Reason.NAMES_TAKEN, _names_taken(facts))
    spec = facts.resource.spec
    if spec.autoscaling is not None and spec.replicas != _DEFAULT_REPLICAS:
        limits = f"minReplicas {spec.autoscaling.min_replicas} to maxReplicas {spec.autoscaling.max_replicas}"
        text = f"The resource is valid, but spec.replicas: {spec.replicas} has no effect: spec.autoscaling decides"
        return Outcome("True", Reason.REPLICAS_IGNORED, f"{text}, with {limits}.")
    return Outcome("True", Reason.VALID, "The resource is valid.")


def _names_taken(facts: Facts) -> str:
    taken = ", ".join(f"{name} is {owner}'s" for name, owner in facts.names.lost.items())
    return f"The resource is valid, but it doesn't have all of its names: {taken}. It is called {facts.names.name}."


def preflight_passed(facts: Facts) -> Outcome:
    if (problem := facts.problem("PreflightPassed")) is not None:
        return Outcome.of(problem)
    verdict = facts.verdict
    if verdict.status == "False" and facts.weights and not facts.blocked:
        return Outcome("True", Reason.PASSED, f"The weights are on the volume. The hub now says: {verdict.message}")
    return Outcome(verdict.status, verdict.reason, verdict.message)


def weights_ready(facts: Facts) -> Outcome:
    claim = facts.claim
    if claim is not None and claim.status.phase == "Lost":
        text = f"The volume behind the PersistentVolumeClaim {claim.metadata.name} is gone; delete the claim."
        return Outcome("False", Reason.VOLUME_LOST, text)
    if (message := facts.refused_children.get("PersistentVolumeClaim")) is not None:
        return _refused_claim(message)
    if (problem := facts.problem("WeightsReady")) is not None:
        storage_class = facts.resource.spec.cache.storage_class_name
        if problem.reason == Reason.VOLUME_PENDING and storage_class is not None:
            return Outcome("False", problem.reason, f"{problem.message} Its storage class is {storage_class!r}.")
        return Outcome.of(problem)
    pod = facts.newest_unready_pod
    if pod is not None and pod.stage is Phase.DOWNLOADING and pod.problem is None:
        return Outcome("False", Reason.DOWNLOADING, _downloading(pod))
    if facts.weights:
        return Outcome("True", Reason.VERIFIED, "The weights are on the volume and verified.")
    if (before := _failed_before(facts)) is not None:
        return before
    why = f" {pod.problem.message}" if pod is not None and pod.problem is not None else ""
    return Outcome("Unknown", Reason.NOT_DOWNLOADED_YET, f"No pod has downloaded the weights yet.{why}")


def _failed_before(facts: Facts) -> Outcome | None:
    """Why the last download failed, of a model that went back to zero since: the next one begins with a request."""
    before = conditions_of(facts.resource.status).get("WeightsReady")
    if before is None or facts.pods or facts.replicas.created:
        return None
    row = row_of(before.reason)
    failed = before.status == "False" and row is not None and row.severity == "Warning"
    if not failed or before.observed_generation != facts.resource.metadata.generation:
        return None
    return Outcome("False", before.reason, before.message)


def _downloading(pod: PodView) -> str:
    progress = pod.progress
    if progress is None:
        return "The download begins."
    if progress.download is None:
        return progress.comment()
    return f"{progress.phase.capitalize()}: {download_sentence(progress.download)}"


def _refused_claim(message: str) -> Outcome:
    if "resize" in message or "expan" in message:
        return Outcome("False", Reason.VOLUME_NOT_EXPANDABLE, f"The volume can't grow: {message}")
    return Outcome("False", Reason.VOLUME_PENDING, f"The API server rejects the PersistentVolumeClaim: {message}")


def available(facts: Facts) -> Outcome:
    if facts.resource.spec.suspend:
        return Outcome("False", Reason.SUSPENDED, "Suspended by spec.suspend; set it to false to resume.")
    if facts.stopped:
        return Outcome("False", Reason.STOPPED, "Stopped by spec.replicas: 0; no request starts it.")
    count, desired = facts.ready_pods, facts.replicas.serving
    if count:
        return Outcome("True", Reason.SERVING, f"{count} of {max(desired, count)} pods answer.")
    if desired == 0 and facts.problem("Available") is None:
        return Outcome("False", Reason.SCALED_TO_ZERO, "Scaled to zero while idle; the next request starts a pod.")
    if (problem := facts.problem("Available")) is not None:
        return Outcome.of(problem)
    if (problem := facts.problem("Progressing")) is not None:  # its golden prompts
        return Outcome("False", Reason.LOAD_FAILED, problem.message)
    if not facts.pods and (message := creates_no_pod(facts.workload)) is not None:
        return Outcome("False", Reason.UNSCHEDULABLE, f"The cluster creates no pod: {message}")
    return Outcome("False", Reason.STARTING, _starting(facts))


def _starting(facts: Facts) -> str:
    if facts.waits_for_predecessor:
        return "Waits until the objects of the deleted resource of this name are gone."
    if facts.blocked or facts.preflight_pending:
        return "Nothing is started before the model has passed its checks."
    pod = facts.newest_unready_pod
    match pod.stage if pod is not None else None:
        case Phase.DOWNLOADING:
            return "The weights are being downloaded."
        case Phase.LOADING:
            detail = pod.progress.comment() if pod is not None and pod.progress is not None else ""
            return "The model is being loaded" + (f": {detail}." if detail else ".")
        case Phase.STARTING:
            return "The pod starts."
        case Phase.SCHEDULING:
            return "The pod waits for a node."
    return "No pod exists yet."


def ready_of_all(facts: Facts, parts: dict[ConditionType, Outcome]) -> Outcome:
    """Of the others; Progressing never counts.

    A model that is scaled to zero while idle is ready, as long as nothing is known that would keep it from starting,
    and its weights are there if they are to be fetched ahead.
    """
    for kind in ("Accepted", "PreflightPassed"):
        if parts[kind].status == "False":
            return Outcome("False", parts[kind].reason, parts[kind].message)
    weights, pods = parts["WeightsReady"], parts["Available"]
    if pods.reason in (Reason.SUSPENDED, Reason.STOPPED):
        return pods
    if facts.preflight_pending and facts.workload is None:
        return Outcome("False", Reason.STARTING, "The hub is being asked about the model.")
    if pods.status == "True":  # it serves, whatever the newest pod's state
        return Outcome("True", Reason.READY, pods.message)
    if facts.replicas.serving == 0:
        return _ready_at_zero(facts, weights, pods)
    first = next((each for each in (weights, pods) if each.status == "False"), weights)
    return Outcome("False", first.reason, first.message)


def _ready_at_zero(facts: Facts, weights: Outcome, pods: Outcome) -> Outcome:
    if weights.status == "False" and weights.reason != Reason.VOLUME_NOT_EXPANDABLE:
        return weights
    if pods.reason != Reason.SCALED_TO_ZERO:  # the pod that fetches the weights
        return pods
    if facts.replicas.prefetch:
        return Outcome("False", Reason.NOT_DOWNLOADED_YET, weights.message)
    return Outcome("True", Reason.SCALED_TO_ZERO, pods.message)
