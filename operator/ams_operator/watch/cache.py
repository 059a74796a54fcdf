"""The cache of the cluster: ModelDeployments, their children and their pods; whatever changes is enqueued."""

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from ams_common import labels
from ams_common.names import child_name
from ams_common.naming import NameClaim
from ams_common.resource.spec import ModelDeployment
from ams_kube.managed_fields import entry_of
from ams_kube.objects import Metadata, MetadataOnly, Pod

from ams_operator.decide.children.kinds import Child, child_key, is_worker, model_key
from ams_operator.decide.children.pull import pull_name
from ams_operator.decide.ownership import owner_of
from ams_operator.decide.workload import WORKLOADS, Workload, own_workload

log = logging.getLogger(__name__)

_LONGEST_NUMBER = 20  # digits


@dataclass(slots=True)
class ModelObjects:
    """All that belongs to one key (`namespace/name` of a ModelDeployment)."""

    resource: ModelDeployment | None = None
    taken_at: float = 0.0  # monotonic
    children: dict[str, Child] = field(default_factory=dict)  # by kind
    pods: dict[str, Pod] = field(default_factory=dict)  # by name, whoever made them
    workers: dict[str, Pod] = field(default_factory=dict)  # by name: pods on other nodes than their leaders'
    replica_sets: dict[str, Metadata] = field(default_factory=dict)  # by name
    stateful_sets: dict[str, Metadata] = field(default_factory=dict)  # by name
    pull: Pod | None = None  # the pod that pulls an image for it

    @property
    def empty(self) -> bool:
        objects = (self.children, self.pods, self.workers, self.replica_sets, self.stateful_sets)
        return self.resource is None and self.pull is None and not any(objects)

    @property
    def workload(self) -> Workload | None:
        return own_workload(self.children, self.resource) if self.resource is not None else None

    def own_pods(self) -> list[Pod]:
        """The pods that the resource's own workload controls. Labels alone show nothing: anybody may set them."""
        if self.resource is None:
            return []
        own = {
            child.metadata.uid
            for kind, child in self.children.items()
            if kind in WORKLOADS and owner_of(child, self.resource) == "ours"
        }
        return _controlled(self.pods, _sets(self.replica_sets, own) | _sets(self.stateful_sets, own))

    def revisions(self) -> dict[str, int]:
        """The numbers that a Deployment gave its ReplicaSets, by their uid; one that goes back gives a new one."""
        told = {each.uid: each.annotations.get(labels.REVISION, "") for each in self.replica_sets.values()}
        return {
            uid: int(number) for uid, number in told.items() if number.isdecimal() and len(number) < _LONGEST_NUMBER
        }

    def own_workers(self) -> list[Pod]:
        """Those of their groups on other nodes: a leader controls the set that controls them."""
        leaders = {pod.metadata.uid for pod in self.own_pods()}
        return _controlled(self.workers, _sets(self.stateful_sets, leaders))


class Cache:
    """Filled by watches and by the answers to our own writes; an older version never replaces a newer one.

    `changed` gets the key of what changed, and whether its spec is new.
    """

    def __init__(self, changed: Callable[[str, bool], None]) -> None:
        self.claims_version = 0  # of all names that resources claim
        self._on_change = changed
        self._known: dict[str, ModelObjects] = {}

    def get(self, key: str) -> ModelObjects:
        return self._known.get(key) or ModelObjects()

    def keys(self) -> list[str]:
        return [key for key, known in self._known.items() if known.resource is not None]

    def claims(self) -> list[NameClaim]:
        """What all resources would like to be called."""
        return [_claim(resource) for resource in self.resources()]

    def resources(self) -> Iterable[ModelDeployment]:
        return (known.resource for known in self._known.values() if known.resource is not None)

    def _changed(self, key: str) -> None:
        self._on_change(key, False)

    # ModelDeployments

    def take_resource(self, resource: ModelDeployment) -> None:
        key = resource.metadata.key
        known = self._known.setdefault(key, ModelObjects())
        before, known.taken_at = known.resource, time.monotonic()
        if before is not None and _older(resource.metadata, before.metadata):
            return
        known.resource = resource
        if before is None or _claim(before) != _claim(resource):
            self.claims_version += 1
        if before is None or before.metadata.generation != resource.metadata.generation:
            self._on_change(key, True)
        elif before != resource:
            self._changed(key)

    def forget_resource(self, key: str, uid: str = "") -> None:
        """It was deleted; with `uid`, unless another one of that name is known."""
        known = self._known.get(key)
        if known is None or known.resource is None or (uid and known.resource.metadata.uid != uid):
            return
        known.resource = None
        self.claims_version += 1
        self._tidy(key, known)
        self._changed(key)

    def forget_vanished(self, present: dict[str, str], since: float) -> None:
        """Drop resources that a whole list, begun at the monotonic time `since`, doesn't hold (key → uid)."""
        for key, known in list(self._known.items()):
            resource = known.resource
            if resource is not None and known.taken_at < since and present.get(key) != resource.metadata.uid:
                log.info("%s vanished while nobody watched", key)
                self.forget_resource(key)

    def lags_behind(self, present: Mapping[str, Metadata]) -> list[str]:
        """Keys of a whole list whose resources aren't known here, or not in a version as new as listed."""
        return [key for key, listed in present.items() if self._lacks(key, listed)]

    def _lacks(self, key: str, listed: Metadata) -> bool:
        resource = self.get(key).resource
        return resource is None or resource.metadata.uid != listed.uid or _older(resource.metadata, listed)

    # children

    def take_child(self, kind: str, child: Child) -> None:
        key = child_key(child.metadata)
        if child.metadata.name != child_name(key.partition("/")[2]):
            return  # of a pod, or another's with our labels
        child = _with_our_fields(child)
        known = self._known.setdefault(key, ModelObjects())
        before = known.children.get(kind)
        if before is not None and _older(child.metadata, before.metadata):
            return
        known.children[kind] = child
        if before != child:
            self._changed(key)

    def forget_child(self, kind: str, key_of_child: str) -> None:
        namespace, _, name = key_of_child.partition("/")
        prefix = child_name("")
        if not name.startswith(prefix):
            return
        key = f"{namespace}/{name.removeprefix(prefix)}"
        known = self._known.get(key)
        if known is not None and known.children.pop(kind, None) is not None:
            self._tidy(key, known)
            self._changed(key)

    # pods

    def take_pod(self, pod: Pod) -> None:
        if (name := pod.metadata.labels.get(labels.PULLS_FOR)) and pod.metadata.name == pull_name(name):
            self._take_pull(f"{pod.metadata.namespace}/{name}", pod)
            return
        key = model_key(pod.metadata)
        known = self._known.setdefault(key, ModelObjects())
        pods = known.workers if is_worker(pod.metadata) else known.pods
        before = pods.get(pod.metadata.name)
        if before is not None and _older(pod.metadata, before.metadata):
            return
        pods[pod.metadata.name] = pod
        self._changed(key)

    def forget_pod(self, key_of_pod: str) -> None:
        namespace, _, name = key_of_pod.partition("/")
        # ams-<model>-<hash>-<hash>, or -<group>-<node>: the model is found by its pods, as its name may hold dashes.
        for key in self._owners(namespace, name):
            known = self._known[key]
            is_pull = known.pull is not None and known.pull.metadata.name == name
            if is_pull:
                known.pull = None
            if is_pull or known.pods.pop(name, None) is not None or known.workers.pop(name, None) is not None:
                self._tidy(key, known)
                self._changed(key)
                return

    def _take_pull(self, key: str, pod: Pod) -> None:
        known = self._known.setdefault(key, ModelObjects())
        if known.pull is None or not _older(pod.metadata, known.pull.metadata):
            known.pull = pod
            self._changed(key)

    # what stands between a workload and its pods

    def take_replica_set(self, replica_set: MetadataOnly) -> None:
        self._take_set(model_key(replica_set.metadata), replica_set.metadata, lambda known: known.replica_sets)

    def forget_replica_set(self, key_of_set: str) -> None:
        self._forget_set(key_of_set, lambda known: known.replica_sets)

    def take_stateful_set(self, stateful_set: MetadataOnly) -> None:
        """One that a LeaderWorkerSet's controller made, by its label; ours it doesn't hand on in all versions."""
        metadata = stateful_set.metadata
        prefix, name = child_name(""), metadata.labels.get(labels.SET_NAME, "")
        if name.startswith(prefix):
            key = f"{metadata.namespace}/{name.removeprefix(prefix)}"
            self._take_set(key, metadata, lambda known: known.stateful_sets)

    def forget_stateful_set(self, key_of_set: str) -> None:
        self._forget_set(key_of_set, lambda known: known.stateful_sets)

    def _take_set(self, key: str, metadata: Metadata, of: Callable[[ModelObjects], dict[str, Metadata]]) -> None:
        sets = of(self._known.setdefault(key, ModelObjects()))
        before = sets.get(metadata.name)
        if before is not None and _older(metadata, before):
            return
        sets[metadata.name] = metadata
        if before is None or (before.uid, before.controller) != (metadata.uid, metadata.controller):
            self._changed(key)

    def _forget_set(self, key_of_set: str, of: Callable[[ModelObjects], dict[str, Metadata]]) -> None:
        namespace, _, name = key_of_set.partition("/")
        for key in self._owners(namespace, name):
            known = self._known[key]
            if of(known).pop(name, None) is not None:
                self._tidy(key, known)
                return

    def _owners(self, namespace: str, pod: str) -> Iterable[str]:
        parts = pod.removeprefix(child_name("")).split("-")
        for length in range(len(parts), 0, -1):
            key = f"{namespace}/{'-'.join(parts[:length])}"
            if key in self._known:
                yield key

    def _tidy(self, key: str, known: ModelObjects) -> None:
        if known.empty:
            self._known.pop(key, None)


def _claim(resource: ModelDeployment) -> NameClaim:
    metadata = resource.metadata
    return NameClaim(metadata.key, metadata.creation_timestamp or "", tuple(resource.spec.model.aliases))


def _with_our_fields(child: Child) -> Child:
    """Without the fields of others, which are most of an object's bytes."""
    entry = entry_of(child.metadata.managed_fields, labels.MANAGER)
    metadata = msgspec.structs.replace(child.metadata, managed_fields=[] if entry is None else [entry])
    return msgspec.structs.replace(child, metadata=metadata)


def _sets(sets: Mapping[str, Metadata], owners: Collection[str]) -> set[str]:
    """Uids of those that one of the owners, by uid, controls."""
    return {each.uid for each in sets.values() if each.controller is not None and each.controller.uid in owners}


def _controlled(pods: Mapping[str, Pod], sets: Collection[str]) -> list[Pod]:
    return [pod for pod in pods.values() if (owner := pod.metadata.controller) and owner.uid in sets]


class _Versioned(Protocol):
    @property
    def uid(self) -> str: ...
    @property
    def resource_version(self) -> str: ...


def _older(incoming: _Versioned, known: _Versioned) -> bool:
    """Whether `incoming` is an earlier version of the same object: a watch may lag behind the answers to our writes."""
    if incoming.uid != known.uid or not (incoming.resource_version.isdigit() and known.resource_version.isdigit()):
        return False
    return int(incoming.resource_version) < int(known.resource_version)
