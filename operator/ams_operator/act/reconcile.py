"""Carries out decisions: observe, decide, write; again when something changed. `ams_operator.decide` decides."""

import asyncio
import logging
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from ams_common import labels
from ams_common.memory_offers import MemoryOffers
from ams_common.outside import read_json
from ams_common.progress import Progress
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Status, conditions_of
from ams_kube.client import Client
from ams_kube.errors import AlreadyExists, Conflict, Forbidden, Invalid, NotFound
from ams_kube.managed_fields import ManagedFields, entry_of
from ams_kube.node_memory import memory_offers
from ams_kube.objects import MODELS_METADATA, Node, Pod

from ams_operator.act.hub_reports import HubReports, Preflight, question_of
from ams_operator.act.writer import NotLeading, Writer
from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.kinds import CHILDREN, Child, child_key
from ams_operator.decide.desired import applied_hash
from ams_operator.decide.observed import Availability, Decision, Observed
from ams_operator.decide.plan import movement, plan
from ams_operator.decide.preflight.verdict import reported_verdict
from ams_operator.decide.renewal import Renewals
from ams_operator.decide.status.serving import ServingReport
from ams_operator.decide.workload import TEMPLATE_FIELDS
from ams_operator.decisions import DecisionBook
from ams_operator.metrics import Metrics
from ams_operator.settings import OperatorSettings
from ams_operator.watch.cache import Cache, ModelObjects
from ams_operator.watch.naming import NameBook

log = logging.getLogger(__name__)

_ROUNDS = 4  # writing may find what was not in the cache, and it is decided anew then
_LOOK_AGAIN_SECONDS = 30.0
_REPLACED_SECONDS = 600.0  # the kubelet's own memory of a container that ended
_FRESH_SECONDS = 2.0
_SETTLE_SECONDS = 0.3
_STATUS_SECONDS = 1.0  # between two changes of a status that leave Ready as it was


@dataclass
class _Memory:
    """What is remembered of a key between its turns."""

    uid: str
    foreign: dict[str, tuple[Child, float]] = field(default_factory=dict)  # kind → object of another owner, when seen
    refused_children: dict[str, tuple[str, str]] = field(default_factory=dict)  # kind → hash, message
    accepted: dict[str, ManagedFields] = field(default_factory=dict)  # kind → our fields after our last apply
    movement: Hashable = None
    moved_at: float = 0.0  # in seconds since 1970
    pull_refused: str | None = None  # image
    replaced_at: list[float] = field(default_factory=list)  # monotonic; pods that were replaced lately
    status_written_at: float = 0.0  # monotonic


class Reconciler:
    def __init__(
        self,
        client: Client,
        cache: Cache,
        writer: Writer,
        reports: HubReports | None,
        nodes: Callable[[], Sequence[Node] | None],
        leader_worker_sets: Callable[[], Availability],
        settings: OperatorSettings,
        metrics: Metrics,
        progress: Mapping[str, Progress],
        serving: Mapping[str, ServingReport],
        replicas: Callable[[str], int | None],
        names: NameBook,
        busy: Callable[[], set[str]],
        wake: Callable[[str], None],
        decisions: DecisionBook | None = None,
    ) -> None:
        self._decisions = decisions or DecisionBook()
        self._client = client
        self._cache = cache
        self._writer = writer
        self._reports = reports
        self._nodes = nodes
        self._leader_worker_sets = leader_worker_sets
        self._settings = settings
        self._metrics = metrics
        self._progress = progress
        self._serving = serving
        self._replicas = replicas
        self._names = names
        self._busy = busy
        self._wake = wake
        self._renewals = Renewals(settings.max_concurrent_updates)
        self._memory: dict[str, _Memory] = {}

    async def __call__(self, key: str) -> float | None:
        """Bring one resource to what it asks for; in how many seconds to look again."""
        began, outcome = time.perf_counter(), "failed"
        try:
            again = await self._reconcile(key)
            outcome = "done"
            return again
        except NotLeading:
            outcome = "not-leading"
            return 1.0
        except Exception as error:
            self._decisions.note(key, "failed", f"{type(error).__name__}: {error}", time.time())
            raise
        finally:
            self._metrics.reconciles.labels(outcome).inc()
            self._metrics.reconcile_seconds.observe(time.perf_counter() - began)

    async def _reconcile(self, key: str) -> float | None:
        self._names.refresh()
        known = self._cache.get(key)
        if (resource := known.resource) is None or resource.metadata.deletion_timestamp is not None:
            self._memory.pop(key, None)  # its children have an owner that is gone: the cluster collects them
            self._metrics.forget(key)
            self._decisions.forget(key)
            self._end_turn(key)
            return None
        memory = self._memory.get(key)
        if memory is None or memory.uid != resource.metadata.uid:
            memory = self._memory[key] = _Memory(resource.metadata.uid)
            self._metrics.expect(key)
        preflight = self._preflight(key, resource)
        for _ in range(_ROUNDS):
            observed = self._observe(key, self._cache.get(key), memory, preflight)
            if observed is None:
                return None
            decided = plan(observed, self._settings, time.time())
            turn_in = self._take_turn(key, decided)
            if self._renewals.has_turn(key) != observed.has_turn:
                continue
            if not await self._carry_out(observed, decided, memory):
                continue
            wait = self._hold_back(observed, decided, memory)
            if wait is not None:
                return wait
            if decided.status != observed.resource.status:
                memory.status_written_at = time.monotonic()
                await self._write_status(observed, decided)
            break
        else:
            return 0.5  # the cluster changes faster than it is decided
        times = (preflight.again_in, decided.requeue_after, decided.deadline_in, turn_in)
        waits = [each for each in times if each is not None]
        return min(waits) if waits else None

    def _observe(self, key: str, known: ModelObjects, memory: _Memory, preflight: Preflight) -> Observed | None:
        if known.resource is None or known.resource.metadata.uid != memory.uid:
            return None
        now = time.monotonic()
        memory.foreign = {
            kind: (child, at)
            for kind, (child, at) in memory.foreign.items()
            if now - at < _LOOK_AGAIN_SECONDS - 1 and kind not in known.children
        }
        memory.replaced_at = [at for at in memory.replaced_at if now - at < _REPLACED_SECONDS]
        observed = Observed(
            resource=known.resource,
            children={**{kind: child for kind, (child, _) in memory.foreign.items()}, **known.children},
            pods=tuple(known.own_pods()),
            workers=tuple(known.own_workers()),
            leader_worker_sets=self._leader_worker_sets(),
            progress=self._progress,
            serving=self._serving,
            revisions=known.revisions(),
            report=preflight.report,
            preflight_pending=preflight.pending,
            offers=memory_offers(known.resource, self._nodes()) if preflight.report is not None else MemoryOffers(),
            replicas=self._replicas(key),
            refused_children={kind: message for kind, (_, message) in memory.refused_children.items()},
            accepted=memory.accepted,
            names=self._names.of(key),
            pull=known.pull,
            pull_refused=memory.pull_refused,
            replacements=len(memory.replaced_at),
            has_turn=self._renewals.has_turn(key),
            turns=tuple(self._renewals.renewed) if self._settings.max_concurrent_updates else None,
        )
        if (now_at := movement(observed, time.time())) != memory.movement:
            memory.movement, memory.moved_at = now_at, time.time()
        return replace(observed, moved_at=memory.moved_at)

    def _take_turn(self, key: str, decided: Decision) -> float | None:
        """Queue up for a renewal, or leave the queue; in how many seconds to ask again."""
        if decided.renewal == "waits":
            now = time.monotonic()
            wait = self._renewals.wait(key, now)
            self._begin_turns(now)
            return wait
        if decided.renewal == "none":
            self._end_turn(key)
        return None

    def _end_turn(self, key: str) -> None:
        if self._renewals.end(key):
            self._begin_turns(time.monotonic())

    def _begin_turns(self, now: float) -> None:
        for key in self._renewals.choose(self._busy(), now):
            log.info("%s: its pods are renewed, %d models wait", key, len(self._renewals))
            self._wake(key)

    def _preflight(self, key: str, resource: ModelDeployment) -> Preflight:
        before, question = reported_verdict(resource), question_of(resource)
        if self._reports is None or question is None or (before is not None and before.passed):
            return Preflight()
        return self._reports.get(key, question)

    async def _carry_out(self, observed: Observed, decided: Decision, memory: _Memory) -> bool:
        """Write; False if the cache or the memory changed so that it has to be decided anew."""
        absent = [object for object in decided.apply if object["kind"] not in observed.children]
        again = bool(memory.accepted or observed.children)  # they, or some of them, were there before
        if absent and again and not await self._exists(observed.resource):
            return False
        if any(await asyncio.gather(*(self._find_foreign(object, memory) for object in absent))):
            return False
        self._tell(observed, decided)
        for object in decided.apply:
            kind = object["kind"]
            if memory.refused_children.get(kind, ("", ""))[0] == applied_hash(object):
                continue  # it was rejected as it is; the decision's requeue tries again
            present = observed.children.get(kind)
            if not await self._apply(object, present, memory):
                return False
        if decided.replace is not None:
            await self._replace(observed, decided.replace, memory)
        if not await self._pull(observed, decided, memory):
            return False
        for kind in decided.remove:
            with suppress(NotFound, Conflict):  # gone already
                await self._writer.delete(kind, observed.children[kind])
        if decided.requeue_after is not None:
            memory.refused_children = {kind: ("", message) for kind, (_, message) in memory.refused_children.items()}
        return True

    def _tell(self, observed: Observed, decided: Decision) -> None:
        """What it is about to write."""
        did = [f"applies {object['kind']}" for object in decided.apply]
        did += [f"deletes {kind}" for kind in decided.remove]
        if decided.replace is not None:
            did.append(f"replaces pod {decided.replace.metadata.name}")
        if decided.renewal == "waits":
            did.append("waits for its turn to renew its pods")
        if did:
            self._decisions.note(observed.resource.metadata.key, "apply", ", ".join(did), time.time())

    async def _replace(self, observed: Observed, pod: Pod, memory: _Memory) -> None:
        log.info("%s: pod %s is replaced, as it would be let wait", observed.resource.metadata.key, pod.metadata.name)
        with suppress(NotFound, Conflict):
            await self._writer.delete_pod(pod)
        memory.replaced_at.append(time.monotonic())
        self._cache.forget_pod(pod.metadata.key)

    async def _pull(self, observed: Observed, decided: Decision, memory: _Memory) -> bool:
        """Make or end the pod that pulls an image; False if none may be made, and the rollout goes on without it."""
        if decided.end_pull and observed.pull is not None:
            with suppress(NotFound, Conflict):
                await self._writer.delete_pod(observed.pull)
        if decided.pull is None:
            return True
        try:
            self._cache.take_pod(await self._writer.create_pod(decided.pull))
        except AlreadyExists:
            pass  # the one before is still going
        except (Forbidden, Invalid) as error:
            memory.pull_refused = decided.pull["metadata"]["annotations"][labels.PULLS]
            log.info("%s: images aren't pulled before a pod ends: %s", observed.resource.metadata.key, error)
            return False
        return True

    async def _exists(self, resource: ModelDeployment) -> bool:
        """Whether the resource still exists, where the watch hasn't shown it just now.

        When its children vanish it may be gone itself: a watch that was cut learns of that later than the cluster's
        collector, and nothing must be made for it any more.
        """
        metadata = resource.metadata
        key = metadata.key
        if time.monotonic() - self._cache.get(key).taken_at < _FRESH_SECONDS:
            return True
        try:
            present = await self._client.get(MODELS_METADATA, metadata.namespace, metadata.name)
        except NotFound:
            self._cache.forget_resource(key, metadata.uid)
            return False
        if present.metadata.uid != metadata.uid:
            self._cache.forget_resource(key, metadata.uid)
            return False
        return True

    async def _find_foreign(self, object: ObjectBody, memory: _Memory) -> bool:
        """Whether an object of this name is there that the cache doesn't have: a user's, without our labels."""
        kind, metadata = object["kind"], object["metadata"]
        try:
            child: Child = await self._client.get(CHILDREN[kind], metadata["namespace"], metadata["name"])
        except NotFound:
            return False
        if child_key(child.metadata).endswith("/"):
            memory.foreign[kind] = (child, time.monotonic())
        else:
            self._cache.take_child(kind, child)
        return True

    async def _apply(self, object: ObjectBody, present: Child | None, memory: _Memory) -> bool:
        kind, metadata = object["kind"], object["metadata"]
        try:
            if (field := TEMPLATE_FIELDS.get(kind)) is not None and field not in object["spec"]:
                object = await self._with_its_template(object, field)
            child = await self._writer.apply(object, present.metadata.uid if present is not None else None)
        except (Forbidden, Invalid) as error:
            known = memory.refused_children.get(kind)
            memory.refused_children[kind] = (applied_hash(object), error.message)
            return known is not None and known[1] == error.message
        except (Conflict, NotFound):
            if present is None:
                raise
            # Deleted, and maybe made anew by somebody else, since the cache last saw it.
            self._cache.forget_child(kind, f"{metadata['namespace']}/{metadata['name']}")
            return False
        memory.refused_children.pop(kind, None)
        if (entry := entry_of(child.metadata.managed_fields, labels.MANAGER)) is not None:
            memory.accepted[kind] = entry
        self._cache.take_child(kind, child)
        return True

    async def _with_its_template(self, object: ObjectBody, field: str) -> ObjectBody:
        """A workload with the template that it has. NotFound if it is gone."""
        metadata = object["metadata"]
        path = CHILDREN[object["kind"]].path(metadata["namespace"], metadata["name"])
        present = read_json(await self._client.request("GET", path), dict[str, Any])
        return {**object, "spec": {**object["spec"], field: present["spec"][field]}}

    def _hold_back(self, observed: Observed, decided: Decision, memory: _Memory) -> float | None:
        """In how many seconds to write the status: what was just applied changes again at once."""
        if decided.apply and decided.requeue_after is None:
            return _SETTLE_SECONDS
        since = time.monotonic() - memory.status_written_at
        if since < _STATUS_SECONDS and _ready(decided.status) == _ready(observed.resource.status):
            return _STATUS_SECONDS - since
        return None

    async def _write_status(self, observed: Observed, decided: Decision) -> None:
        resource = observed.resource
        try:
            self._cache.take_resource(await self._writer.status(resource, decided.status))
        except (NotFound, Conflict):
            return  # deleted, or made anew, meanwhile: the watch brings it
        for transition in decided.transitions:
            self._decisions.note(
                resource.metadata.key, "status", f"{transition.reason}: {transition.message}", time.time()
            )
            await self._writer.event(resource, transition, time.time())


def _ready(status: Status | None) -> tuple[str, str] | None:
    condition = conditions_of(status).get("Ready")
    return (condition.status, condition.reason) if condition is not None else None
