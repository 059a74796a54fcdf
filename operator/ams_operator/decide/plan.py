"""From what is observed to what is to be done: where all decisions come together."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace

from ams_common.lifecycle import Phase
from ams_common.naming import GivenNames, NameClaim, give_names
from ams_common.progress import Progress
from ams_common.quantity import parse_bytes
from ams_common.reasons import Reason
from ams_common.resource.rules import most_replicas
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import AdapterStatus
from ams_common.source import FileSource, InvalidSource, Source, parse_source
from ams_kube.node_memory import gpus_requested
from ams_kube.objects import Claim, Pod

from ams_operator.decide.children.common import ObjectBody, source_digest
from ams_operator.decide.children.deployment import Strategy, can_share
from ams_operator.decide.children.sources import pod_adapters
from ams_operator.decide.children.volume import volume_bytes
from ams_operator.decide.desired import desired, hashed, outdated
from ams_operator.decide.engine import BUILTIN, Engine, changes_adapters, engine_of, stays_for_sleep
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.ownership import name_taken_message, owner_of
from ams_operator.decide.preflight.verdict import Verdict, judge_preflight, reported_verdict
from ams_operator.decide.pulling import pull_first
from ams_operator.decide.renewal import judge_renewal, kept
from ams_operator.decide.replicas import Replicas, desired_replicas
from ams_operator.decide.status.adapters import adapter_statuses
from ams_operator.decide.status.assemble import status_of, transitions_of
from ams_operator.decide.status.facts import Facts
from ams_operator.decide.status.pods import PodView, living, read_pod, scheduling_seconds_left, worker_problem
from ams_operator.decide.status.problem import Problem
from ams_operator.decide.status.serving import ServingReport, engine_version, newest_revision_first
from ams_operator.decide.weights import has_weights, lock_of_weights
from ams_operator.decide.workload import WORKLOADS, own_workload, workload_kind
from ams_operator.settings import OperatorSettings

_OF_ONE_MACHINE = (
    "file:/// names a folder of one machine and works with `ams up` only; use pvc://claim/path, hf:// or wheel://."
)
# What no pod could serve, though it has the weights already.
_EVEN_WITH_WEIGHTS = {Reason.UNSUPPORTED_ARCHITECTURE, Reason.DOES_NOT_FIT_MEMORY}
_FOR_WANT_OF_ROOM = {Reason.UNSCHEDULABLE, Reason.INSUFFICIENT_GPU}  # that the old pod may be taking
_LONGEST_BACK_OFF_SECONDS = 10  # the kubelet's first one
_MOST_REPLACEMENTS = 5  # of a model's pods, lately
_LOOK_AGAIN_SECONDS = 30.0  # at what somebody has to change outside of this resource


def plan(observed: Observed, settings: OperatorSettings, now: float) -> Decision:
    """`now` is in seconds since 1970."""
    rejection, source = _rejection(observed)
    facts = (
        _unreadable(observed, rejection, settings, now)
        if source is None
        else _facts(observed, source, rejection, settings, now)
    )
    objects = _objects(facts, source, settings) if source is not None and _may_create(facts) else {}
    kind = workload_kind(observed.resource)
    renewal = judge_renewal(facts.workload, objects.get(kind), granted=observed.has_turn)
    waits = renewal == "waits"
    replaces = objects.get(kind) if not waits else None
    pulling = pull_first(observed, facts.pods, facts.workload, replaces, settings)
    if waits and facts.workload is not None:
        objects[kind] = hashed(kept(objects[kind], facts.workload))
        facts = replace(facts, outdated=True, renewed=observed.turns)
    if pulling.image is not None:
        del objects[kind]
        facts = replace(facts, pulls=pulling.image, pull_problem=pulling.problem)
    status = status_of(facts, settings.gateway_url, now)
    again = source is not None and (rejection is not None or bool(observed.refused_children))
    return Decision(
        apply=tuple(
            object
            for kind, object in objects.items()
            if outdated(object, observed.children.get(kind), observed.accepted.get(kind))
        ),
        remove=tuple(
            kind
            for kind in observed.children
            if objects
            and not (kind in WORKLOADS and pulling.image is not None)
            and _is_obsolete(kind, observed, objects)
        ),
        status=status,
        transitions=transitions_of(observed.resource.status, status),
        requeue_after=_LOOK_AGAIN_SECONDS if again else None,
        pull=pulling.start,
        end_pull=pulling.end,
        replace=_held_back(observed, facts) if objects else None,
        deadline_in=_deadline_in(observed, facts, settings, now),
        renewal=renewal,
    )


def _held_back(observed: Observed, facts: Facts) -> Pod | None:
    """A pod whose server had been ready and then ended, but which the kubelet lets wait as if it would never get ready.

    A new pod starts at once. Not where that costs another download, and not again and again.
    """
    spec = facts.resource.spec
    if observed.replacements >= _MOST_REPLACEMENTS or spec.cache.per_replica or not facts.weights:
        return None
    if spec.engine.nodes > 1:  # whose set begins the whole group anew
        return None
    return next((view.pod for view in facts.pods if view.held_back_seconds > _LONGEST_BACK_OFF_SECONDS), None)


def _deadline_in(observed: Observed, facts: Facts, settings: OperatorSettings, now: float) -> float | None:
    """Nothing else may happen until it is told that nothing happens, or that no node takes a pod."""
    waiting = [*(view.pod for view in facts.pods), *living(observed.workers)]
    if (left := max((scheduling_seconds_left(pod, now) for pod in waiting), default=0.0)) > 0:
        return left
    if observed.moved_at is None or facts.workload is None or facts.stands_still_for is not None:
        return None
    if facts.workload.settled:
        return None
    return max(1.0, observed.moved_at + settings.progress_deadline_seconds - now)


def movement(observed: Observed, now: float) -> Hashable:
    """Changes whenever something moves of what is under way: pods come and go, bytes arrive, a load goes on."""
    workload = own_workload(observed.children, observed.resource)
    pods: list[Hashable] = [(view.pod.metadata.uid, view.stage, _step(view.progress)) for view in _views(observed, now)]
    for pod in living(observed.workers):
        ready = sum(each.ready for each in pod.status.container_statuses)
        pods.append((pod.metadata.uid, (pod.status.phase, ready), _step(observed.progress.get(pod.metadata.uid))))
    replicas = (workload.replicas, workload.updated, workload.available) if workload is not None else None
    return (observed.resource.metadata.generation, replicas, tuple(pods))


def _step(progress: Progress | None) -> Hashable:
    if progress is None:
        return None
    received = progress.download.bytesDone if progress.download is not None else None
    return (progress.phase, progress.percent, received)


def _facts(
    observed: Observed, source: Source, rejection: Problem | None, settings: OperatorSettings, now: float
) -> Facts:
    resource = observed.resource
    engine = engine_of(resource, source, observed.report, observed.offers, settings)
    verdict, pods = _verdict(observed, source, engine), _views(observed, now)
    rejection = rejection or (None if observed.preflight_pending else engine.problem)
    claim, workload = _claim(observed), own_workload(observed.children, resource)
    weights = has_weights(resource, engine, claim, pods)
    unmoved = now - observed.moved_at if observed.moved_at is not None else None
    deadline = settings.progress_deadline_seconds
    return Facts(
        resource=resource,
        names=_names(observed, settings),
        replicas=desired_replicas(
            resource, source, observed.replicas, workload, weights=weights, stays=stays_for_sleep(resource, engine)
        ),
        verdict=verdict,
        preflight_pending=observed.preflight_pending,
        rejection=rejection,
        engine=engine,
        blocked=verdict.status == "False" and (not weights or verdict.reason in _EVEN_WITH_WEIGHTS),
        waits_for_predecessor=any(owner_of(child, resource) == "predecessor's" for child in observed.children.values()),
        workload=workload,
        claim=claim,
        pods=pods,
        worker_problems=_worker_problems(observed, now),
        weights=weights,
        lock=lock_of_weights(resource, engine, claim, pods) if weights else None,
        refused_children=observed.refused_children,
        engine_version=_engine_version(observed, engine, pods),
        adapters=_adapters(observed, engine, pods),
        stands_still_for=deadline if unmoved is not None and unmoved >= deadline else None,
    )


def _adapters(observed: Observed, engine: Engine, pods: Sequence[PodView]) -> list[AdapterStatus] | None:
    if not changes_adapters(observed.resource, engine):
        return None
    reports = _reports(observed, pods)
    told = [report.adapters if report is not None else None for report in reports]
    status = observed.resource.status
    same = status is not None and status.observed_generation == observed.resource.metadata.generation
    before = (status.adapters or ()) if status is not None and same else ()
    return adapter_statuses(pod_adapters(observed.resource), told, before)


def _reports(observed: Observed, pods: Sequence[PodView]) -> list[ServingReport | None]:
    """Of the pods that serve, those of the newest revision first; None of one that hasn't said anything yet."""
    serving = [view.pod.metadata for view in pods if view.stage is Phase.READY]
    order = newest_revision_first(serving, observed.revisions)
    return [observed.serving.get(serving[place].uid) for place in order]


def _engine_version(observed: Observed, engine: Engine, pods: Sequence[PodView]) -> str | None:
    if not pods:
        return None
    status = observed.resource.status
    return engine_version(engine.name, _reports(observed, pods), status.engine if status is not None else None)


def _names(observed: Observed, settings: OperatorSettings) -> GivenNames:
    """As if it were alone, where nothing is known of other models."""
    metadata = observed.resource.metadata
    alone = NameClaim(metadata.key, "", tuple(observed.resource.spec.model.aliases))
    return observed.names or give_names([alone], confined=settings.confine_names).given[metadata.key]


def _unreadable(observed: Observed, rejection: Problem | None, settings: OperatorSettings, now: float) -> Facts:
    """Of a resource that can't even be read: what runs is left as it is."""
    return Facts(
        resource=observed.resource,
        names=_names(observed, settings),
        replicas=Replicas(0, 0),
        verdict=Verdict("Unknown", Reason.HUB_UNREACHABLE, "The hub wasn't asked."),
        preflight_pending=False,
        rejection=rejection,
        blocked=True,
        workload=own_workload(observed.children, observed.resource),
        pods=_views(observed, now),
    )


def _may_create(facts: Facts) -> bool:
    """Preflight's first answer is waited for only where nothing runs yet."""
    pending = facts.preflight_pending and facts.workload is None
    return facts.rejection is None and not facts.blocked and not facts.waits_for_predecessor and not pending


def _objects(facts: Facts, source: Source, settings: OperatorSettings) -> dict[str, ObjectBody]:
    resource, engine = facts.resource, facts.engine or BUILTIN
    return desired(
        resource,
        source,
        settings,
        replicas=facts.replicas.created,
        strategy=_strategy(resource, facts.pods),
        prefetch=facts.replicas.prefetch,
        volume_size=volume_bytes(
            resource,
            source,
            facts.verdict.weights_bytes,
            _claimed_bytes(facts.claim),
            converted=engine.name == "builtin",
        ),
        weights=source_digest(resource, engine) if facts.weights else None,
        lock=facts.lock,
        engine=engine,
    )


def _is_obsolete(kind: str, observed: Observed, objects: Mapping[str, ObjectBody]) -> bool:
    """A child of ours that the model doesn't need any more. Volumes are never removed."""
    return (
        kind not in objects
        and kind != "PersistentVolumeClaim"
        and owner_of(observed.children[kind], observed.resource) == "ours"
    )


def _rejection(observed: Observed) -> tuple[Problem | None, Source | None]:
    """What is wrong with the resource as a whole, and its source if that can be read."""
    resource = observed.resource
    try:
        source = parse_source(resource.spec.model.source)
    except InvalidSource as error:
        return Problem(Reason.INVALID_SOURCE, f"spec.model.source: {error}."), None
    if isinstance(source, FileSource):
        return Problem(Reason.INVALID_SOURCE, _OF_ONE_MACHINE), None
    if (wrong := _adapters_problem(resource)) is not None:
        return wrong, source
    cache = resource.spec.cache
    most, nodes = most_replicas(resource.spec), resource.spec.engine.nodes
    if max(most, nodes) > 1 and cache.access_mode == "ReadWriteOnce" and not cache.per_replica:
        allows = "one replica" if nodes <= 1 else "one node"
        text = f"a ReadWriteOnce cache allows {allows}; set cache.accessMode to ReadWriteMany, or cache.perReplica."
        return Problem(Reason.CACHE_NOT_SHAREABLE, text), source
    for kind, child in observed.children.items():
        if owner_of(child, resource) == "another's":
            return Problem(Reason.NAME_TAKEN, name_taken_message(kind, child, resource)), source
    return _without_sets(observed), source


def _without_sets(observed: Observed) -> Problem | None:
    """Why a replica can't have several nodes in this cluster."""
    nodes, sets = observed.resource.spec.engine.nodes, observed.leader_worker_sets
    if nodes <= 1 or sets == "served":
        return None
    text = f"spec.engine.nodes: {nodes} needs LeaderWorkerSet (leaderworkerset.x-k8s.io/v1)"
    if sets == "absent":
        text += (
            ", which this cluster doesn't have. Install it (https://lws.sigs.k8s.io/docs/installation/); the model is"
        )
        return Problem(Reason.LEADER_WORKER_SET_UNAVAILABLE, f"{text} started as soon as it is there.")
    text += ", and the operator may not list leaderworkersets or statefulsets: its role lacks them, as that of an older"
    return Problem(Reason.LEADER_WORKER_SET_UNAVAILABLE, f"{text} chart does. Upgrade the chart, or extend the role.")


def _adapters_problem(resource: ModelDeployment) -> Problem | None:
    for number, adapter in enumerate(resource.spec.adapters):
        place = f"spec.adapters[{number}].source"
        try:
            source = parse_source(adapter.source)
        except InvalidSource as error:
            return Problem(Reason.INVALID_SOURCE, f"{place}: {error}.")
        if isinstance(source, FileSource):
            return Problem(Reason.INVALID_SOURCE, f"{place}: {_OF_ONE_MACHINE}")
    return None


def _verdict(observed: Observed, source: Source, engine: Engine) -> Verdict:
    """By the hub's report; as long as there is none, as status reports it."""
    resource = observed.resource
    if observed.report is not None:
        return judge_preflight(resource, source, observed.report, observed.offers, engine.name)
    before = reported_verdict(resource)
    if before is not None and (observed.preflight_pending or before.passed):
        return before
    if observed.preflight_pending:
        return Verdict("Unknown", Reason.HUB_UNREACHABLE, "The hub hasn't answered yet.")
    return judge_preflight(resource, source, None, observed.offers, engine.name)


def _views(observed: Observed, now: float) -> list[PodView]:
    devices, progress = gpus_requested(observed.resource.spec), observed.progress
    return [read_pod(pod, progress.get(pod.metadata.uid), devices, now) for pod in living(observed.pods)]


def _worker_problems(observed: Observed, now: float) -> list[Problem]:
    devices = gpus_requested(observed.resource.spec)
    found = (worker_problem(pod, devices, now) for pod in living(observed.workers))
    return [problem for problem in found if problem is not None]


def _claim(observed: Observed) -> Claim | None:
    child = observed.children.get("PersistentVolumeClaim")
    return child if isinstance(child, Claim) and owner_of(child, observed.resource) == "ours" else None


def _claimed_bytes(claim: Claim | None) -> int | None:
    storage = claim.spec.resources.requests.get("storage") if claim is not None else None
    return parse_bytes(storage) if storage is not None else None


def _strategy(resource: ModelDeployment, pods: Sequence[PodView]) -> Strategy:
    """`auto` starts the new pod first where the cache allows it and a node takes it beside the old one.

    Whole nodes are seldom free: there one group after another is replaced.
    """
    strategy = resource.spec.rollout.strategy
    if strategy != "auto":
        return strategy
    if not can_share(resource) or resource.spec.engine.nodes > 1:
        return "Recreate"
    serving = any(view.stage is Phase.READY for view in pods)
    crowded = any(view.problem is not None and view.problem.reason in _FOR_WANT_OF_ROOM for view in pods)
    return "Recreate" if serving and crowded else "Surge"
