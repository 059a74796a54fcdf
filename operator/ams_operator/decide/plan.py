"""From what is observed to what is to be done: the one place that decides. Pure."""

from ams_common.lock import lock_of, lock_status
from ams_common.quantity import parse_bytes
from ams_common.reasons import Reason, row_of
from ams_common.resource.rules import most_replicas
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import LockStatus
from ams_common.source import FileSource, InvalidSource, Source, parse_source
from ams_kube.node_memory import gpus_requested
from ams_kube.objects import Claim, Deployment

from ams_operator.decide.children.common import Object
from ams_operator.decide.children.deployment import Strategy, can_share
from ams_operator.decide.children.kinds import ANNOTATION_LOCK, ANNOTATION_WEIGHTS
from ams_operator.decide.children.volume import volume_bytes
from ams_operator.decide.desired import desired, outdated
from ams_operator.decide.hashes import source_digest
from ams_operator.decide.observed import Observed, Plan
from ams_operator.decide.ownership import owner_of, taken
from ams_operator.decide.preflight.verdict import Verdict, judge
from ams_operator.decide.replicas import Wanted, wanted
from ams_operator.decide.status.assemble import conditions_of, events_of, status_of
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.pods import PodView, Problem, living, read_pod
from ams_operator.settings import OperatorSettings

# What no pod could serve, though it has the weights already.
_EVEN_WITH_WEIGHTS = {Reason.UNSUPPORTED_ARCHITECTURE, Reason.DOES_NOT_FIT_MEMORY}
_LOOK_AGAIN_SECONDS = 30.0  # at what somebody has to change outside of this resource


def plan(observed: Observed, settings: OperatorSettings, now: float) -> Plan:
    """`now` is in seconds since 1970."""
    resource = observed.resource
    refusal, source = _refusal(observed)
    if source is None:
        return _only_status(observed, settings, now, refusal)
    verdict = _verdict(observed, source)
    views = _views(observed)
    claim = _claim(observed)
    weights = _has_weights(resource, claim, views)
    lock = _lock(resource, claim, views) if weights else None
    present = _deployment(observed)
    waits = any(owner_of(child, resource) == "predecessor's" for child in observed.children.values())
    asks_first = observed.asking and present is None
    blocked = verdict.status == "False" and (not weights or verdict.reason in _EVEN_WITH_WEIGHTS)
    goal = wanted(resource, source, observed.replicas, present, weights=weights)
    facts = Facts(
        resource=resource,
        wanted=goal,
        verdict=verdict,
        asking=observed.asking,
        refusal=refusal,
        blocked=blocked,
        waits_for_predecessor=waits,
        deployment=present,
        claim=claim,
        pods=views,
        weights=weights,
        lock=lock,
        refusals=observed.refusals,
    )
    objects: dict[str, Object] = {}
    if refusal is None and not blocked and not waits and not asks_first:
        objects = desired(
            resource,
            source,
            settings,
            replicas=goal.replicas,
            strategy=_strategy(resource, views),
            prefetch=goal.prefetch,
            volume_size=volume_bytes(resource, source, verdict.weights_bytes, _claimed_bytes(claim)),
            weights=source_digest(resource) if weights else None,
            lock=lock,
        )
    remove = tuple(
        kind
        for kind, child in observed.children.items()
        if objects and kind not in objects and kind != "PersistentVolumeClaim" and owner_of(child, resource) == "ours"
    )
    apply = tuple(
        object
        for kind, object in objects.items()
        if outdated(object, observed.children.get(kind), observed.generations.get(kind))
    )
    status = status_of(facts, settings.gateway_url, now)
    again = refusal is not None or bool(observed.refusals)
    return Plan(apply, remove, status, events_of(resource.status, status), _LOOK_AGAIN_SECONDS if again else None)


def _only_status(observed: Observed, settings: OperatorSettings, now: float, refusal: Problem | None) -> Plan:
    """For a resource that can't even be read: what runs is left as it is."""
    facts = Facts(
        resource=observed.resource,
        wanted=Wanted(0, 0),
        verdict=Verdict("Unknown", Reason.HUB_UNREACHABLE, "The hub wasn't asked."),
        asking=False,
        refusal=refusal,
        blocked=True,
        deployment=_deployment(observed),
        pods=_views(observed),
    )
    status = status_of(facts, settings.gateway_url, now)
    return Plan((), (), status, events_of(observed.resource.status, status))


def _refusal(observed: Observed) -> tuple[Problem | None, Source | None]:
    """What is wrong with the resource as a whole, and its source if that can be read."""
    resource = observed.resource
    try:
        source = parse_source(resource.spec.model.source)
    except InvalidSource as error:
        return Problem("Accepted", Reason.INVALID_SOURCE, f"spec.model.source: {error}."), None
    if isinstance(source, FileSource):
        text = "file:/// names a folder of one machine and works with `ams up` only; use pvc://claim/path, hf:// or wheel://."
        return Problem("Accepted", Reason.INVALID_SOURCE, text), None
    cache = resource.spec.cache
    if most_replicas(resource.spec) > 1 and cache.access_mode == "ReadWriteOnce" and not cache.per_replica:
        text = "a ReadWriteOnce cache allows one replica; set cache.accessMode to ReadWriteMany, or cache.perReplica."
        return Problem("Accepted", Reason.CACHE_NOT_SHAREABLE, text), source
    for kind, child in observed.children.items():
        if owner_of(child, resource) == "another's":
            return Problem("Accepted", Reason.NAME_TAKEN, taken(kind, child, resource)), source
    return None, source


def _verdict(observed: Observed, source: Source) -> Verdict:
    """By the hub's report; as long as there is none, as status reports it."""
    resource = observed.resource
    if observed.report is not None:
        return judge(resource, source, observed.report, observed.offers)
    before = reported_verdict(resource)
    if before is not None and (observed.asking or before.passed):
        return before
    if observed.asking:
        return Verdict("Unknown", Reason.HUB_UNREACHABLE, "The hub hasn't answered yet.")
    return judge(resource, source, None, observed.offers)


def reported_verdict(resource: ModelDeployment) -> Verdict | None:
    """The verdict in status, if it is about this generation: a good one needn't be asked for again."""
    condition, status = conditions_of(resource.status).get("PreflightPassed"), resource.status
    if condition is None or status is None or condition.observed_generation != resource.metadata.generation:
        return None
    row = row_of(condition.reason)
    return Verdict(
        condition.status,
        condition.reason,
        condition.message,
        status.model,
        status.quantization,
        rejects=row is not None and row.condition == "Accepted",
        weights_bytes=status.model.weights_bytes if status.model is not None else None,
    )


def _views(observed: Observed) -> list[PodView]:
    devices = gpus_requested(observed.resource.spec)
    return [read_pod(pod, observed.progress.get(pod.metadata.uid), devices) for pod in living(observed.pods)]


def _claim(observed: Observed) -> Claim | None:
    child = observed.children.get("PersistentVolumeClaim")
    return child if isinstance(child, Claim) and owner_of(child, observed.resource) == "ours" else None


def _deployment(observed: Observed) -> Deployment | None:
    child = observed.children.get("Deployment")
    return child if isinstance(child, Deployment) and owner_of(child, observed.resource) == "ours" else None


def _has_weights(resource: ModelDeployment, claim: Claim | None, views: list[PodView]) -> bool:
    """Known by a pod that brought them, or by what was noted on the volume when one had."""
    digest = source_digest(resource)
    kept = claim is not None and claim.metadata.deletion_timestamp is None
    if kept and claim is not None and claim.metadata.annotations.get(ANNOTATION_WEIGHTS) == digest:
        return True
    return any(view.verified and view.pod.metadata.annotations.get(ANNOTATION_WEIGHTS) == digest for view in views)


def _lock(resource: ModelDeployment, claim: Claim | None, views: list[PodView]) -> LockStatus | None:
    """As the newest pod told that has the weights, else as it was noted on the volume, else as it is pinned."""
    digest = source_digest(resource)
    for view in views:
        if view.lock is not None and view.pod.metadata.annotations.get(ANNOTATION_WEIGHTS) == digest:
            return view.lock
    notes = claim.metadata.annotations if claim is not None else {}
    noted = lock_of(notes.get(ANNOTATION_LOCK, "")) if notes.get(ANNOTATION_WEIGHTS) == digest else None
    pinned = resource.spec.model.lock
    return noted or (lock_status(pinned) if pinned else None)


def _claimed_bytes(claim: Claim | None) -> int | None:
    storage = claim.spec.resources.requests.get("storage") if claim is not None else None
    return parse_bytes(storage) if storage is not None else None


def _strategy(resource: ModelDeployment, views: list[PodView]) -> Strategy:
    """`auto` starts the new pod first where the cache allows it and a node takes it beside the old one."""
    asked = resource.spec.rollout.strategy
    if asked != "auto":
        return asked
    if not can_share(resource):
        return "Recreate"
    serving = any(view.stage == "ready" for view in views)
    stuck = any(view.stage == "scheduling" and view.problem is not None for view in views)
    return "Recreate" if serving and stuck else "Surge"
