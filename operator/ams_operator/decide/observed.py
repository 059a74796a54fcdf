"""What a decision is made from, and what it is: trimmed and frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ams_common.memory_offers import MemoryOffers
from ams_common.naming import GivenNames
from ams_common.progress import Progress
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Status
from ams_kube.managed_fields import ManagedFields
from ams_kube.objects import Pod

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.kinds import Child
from ams_operator.decide.preflight.report import HubReport
from ams_operator.decide.renewal import Renewal
from ams_operator.decide.status.serving import ServingReport

Availability = Literal["served", "absent", "forbidden"]
"""Of a kind that isn't Kubernetes' own: whether the cluster has it, and the operator's role lets it be listed."""


@dataclass(frozen=True, slots=True)
class Observed:
    """One ModelDeployment and everything that is known about it.

    `children` by kind, whoever owns them; `refused_children`: why the API server rejected one, by kind. `report` is the
    hub's, None where it isn't asked; `preflight_pending`: it hasn't answered yet. `offers` of memory come with it.
    `replicas`: what the load asks for, None while it isn't known. `progress` by a pod's uid. `accepted`: the fields of
    children that we owned after our last apply. `moved_at`: when something last moved of what is under way (see
    `movement`), in seconds since 1970, None while that isn't known. `names`: what the model is called among all others.
    `pull` is the pod that pulls the image of a new version (see `pulling`); `pull_refused`: an image for which the API
    server takes no such pod. `replacements`: how many pods were replaced lately (see `plan`). `has_turn`: its running
    pods may be renewed for no change of the resource (see `renewal`); `turns`: the models that may, None where none
    ever is. `workers` are the pods of its replicas on other nodes than their leaders'; `leader_worker_sets`: whether
    the cluster has such sets, and the operator may list them. `serving`: what pods that serve say of themselves, by
    a pod's uid; `revisions`: the numbers that a Deployment gave its ReplicaSets, by their uid.
    """

    resource: ModelDeployment
    children: Mapping[str, Child] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    workers: Sequence[Pod] = ()
    leader_worker_sets: Availability = "served"
    progress: Mapping[str, Progress] = field(default_factory=dict)
    serving: Mapping[str, ServingReport] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    report: HubReport | None = None
    preflight_pending: bool = False
    offers: MemoryOffers = field(default_factory=MemoryOffers)
    replicas: int | None = None
    refused_children: Mapping[str, str] = field(default_factory=dict)
    accepted: Mapping[str, ManagedFields] = field(default_factory=dict)
    moved_at: float | None = None
    names: GivenNames | None = None
    pull: Pod | None = None
    pull_refused: str | None = None
    replacements: int = 0
    has_turn: bool = False
    turns: Sequence[str] | None = ()


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that changed, for people: core/v1's Event without its times."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, in this order. `remove` are kinds of children that the model doesn't need any more.

    `replace` is a pod to be deleted, as another one in its place starts sooner. `pull` is a pod to be made that pulls
    an image, `end_pull`: the one that is there is to go. `requeue_after`: something was refused, and is tried again in
    so many seconds. `deadline_in`: after so many seconds there is something to tell even if nothing happens. A
    workload in `apply` without a template keeps the one that it has.
    """

    apply: tuple[ObjectBody, ...]
    remove: tuple[str, ...]
    status: Status
    transitions: tuple[Transition, ...]
    pull: ObjectBody | None = None
    end_pull: bool = False
    replace: Pod | None = None
    requeue_after: float | None = None
    deadline_in: float | None = None
    renewal: Renewal = "none"
