"""What runs a model's replicas, read alike whichever kind it is: a Deployment, or a LeaderWorkerSet over nodes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ams_common import labels
from ams_common.resource.spec import ModelDeployment
from ams_kube.objects import (
    DEPLOYMENTS,
    LEADER_WORKER_SETS,
    Container,
    Deployment,
    LeaderWorkerSet,
    Metadata,
    StatusCondition,
)

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.kinds import Child
from ams_operator.decide.ownership import owner_of

WORKLOADS = (DEPLOYMENTS.name, LEADER_WORKER_SETS.name)
TEMPLATE_FIELDS: Mapping[str, str] = {DEPLOYMENTS.name: "template", LEADER_WORKER_SETS.name: "leaderWorkerTemplate"}
"""By kind: the field of the spec that says what pods are like."""


@dataclass(frozen=True, slots=True)
class Workload:
    """`asked` are the replicas of its spec; the other counts are of its status. All nodes of a replica count as one.

    `observed`: the status is about the spec of now.
    """

    kind: str
    metadata: Metadata
    asked: int
    replicas: int
    updated: int
    available: int
    observed: bool
    containers: Sequence[Container] = ()
    conditions: Sequence[StatusCondition] = ()

    @property
    def settled(self) -> bool:
        """Whether all replicas that are asked for are there, of the last template, and answer."""
        return self.updated == self.replicas == self.available == self.asked

    @property
    def complete(self) -> bool:
        """Whether it is settled, as far as the cluster has noticed what is asked for."""
        return self.observed and self.settled

    @property
    def prefetches(self) -> bool:
        """Whether its pod only downloads."""
        return self.metadata.annotations.get(labels.PREFETCH) == "true"


def workload_kind(resource: ModelDeployment) -> str:
    """The kind that is to run its replicas."""
    return LEADER_WORKER_SETS.name if resource.spec.engine.nodes > 1 else DEPLOYMENTS.name


def workload_of(child: Child | None) -> Workload | None:
    """None of what runs no pods."""
    if isinstance(child, Deployment):
        return _of_deployment(child)
    return _of_set(child) if isinstance(child, LeaderWorkerSet) else None


def own_workload(children: Mapping[str, Child], resource: ModelDeployment) -> Workload | None:
    """Its own; of two kinds, as while one replaces the other, that which is to stay."""
    wanted = workload_kind(resource)
    for kind in sorted(WORKLOADS, key=lambda each: each != wanted):
        child = children.get(kind)
        if child is not None and owner_of(child, resource) == "ours" and (found := workload_of(child)) is not None:
            return found
    return None


def containers_of(body: ObjectBody) -> list[ObjectBody]:
    """Of the pods that serve, in a workload that is to be applied."""
    template = body["spec"][TEMPLATE_FIELDS[body["kind"]]]
    pod = template["leaderTemplate"] if body["kind"] == LEADER_WORKER_SETS.name else template
    containers: list[ObjectBody] = pod["spec"]["containers"]
    return containers


def ends_before_it_begins(body: ObjectBody) -> bool:
    """Whether an old replica ends before a new one takes its place, in a workload that is to be applied."""
    if body["kind"] == LEADER_WORKER_SETS.name:
        return bool(body["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]["maxSurge"] == 0)
    return bool(body["spec"]["strategy"]["type"] == "Recreate")


def without_template(body: ObjectBody) -> ObjectBody:
    """The spec of a workload but for what its pods are like."""
    return {name: value for name, value in body["spec"].items() if name != TEMPLATE_FIELDS[body["kind"]]}


def _of_deployment(given: Deployment) -> Workload:
    spec, status = given.spec, given.status
    return Workload(
        kind=DEPLOYMENTS.name,
        metadata=given.metadata,
        asked=spec.replicas,
        replicas=status.replicas,
        updated=status.updated_replicas,
        available=status.available_replicas,
        observed=status.observed_generation >= given.metadata.generation,
        containers=spec.template.spec.containers,
        conditions=status.conditions,
    )


def _of_set(given: LeaderWorkerSet) -> Workload:
    spec, status = given.spec, given.status
    observed = status.observed_generation
    return Workload(
        kind=LEADER_WORKER_SETS.name,
        metadata=given.metadata,
        asked=spec.replicas,
        replicas=status.replicas,
        updated=status.updated_replicas,
        available=status.ready_replicas,
        observed=observed is None or observed >= given.metadata.generation,
        containers=spec.leader_worker_template.leader_template.spec.containers,
        # Its Progressing says of whatever is under way that it is; a deadline it has none.
        conditions=(),
    )
