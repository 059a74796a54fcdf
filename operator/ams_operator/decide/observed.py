"""What a decision is made from, and what it is: trimmed and frozen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ams_common.memory_offers import MemoryOffers
from ams_common.progress import Progress
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Status
from ams_kube.objects import Pod

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.kinds import Child
from ams_operator.decide.preflight.report import HubReport


@dataclass(frozen=True, slots=True)
class Observed:
    """One ModelDeployment and everything that is known about it.

    `children` by kind, whoever owns them; `refused_children`: why the API server rejected one, by kind. `report` is the
    hub's, None where it isn't asked; `preflight_pending`: it hasn't answered yet. `offers` of memory come with it.
    `replicas`: what the load asks for, None while it isn't known. `progress` by a pod's uid. `generations`: of the
    children after our last apply.
    """

    resource: ModelDeployment
    children: Mapping[str, Child] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    report: HubReport | None = None
    preflight_pending: bool = False
    offers: MemoryOffers = field(default_factory=MemoryOffers)
    replicas: int | None = None
    refused_children: Mapping[str, str] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transition:
    """A condition that changed, for people: core/v1's Event without its times."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done, in this order. `remove` are kinds of children that the model doesn't need any more."""

    apply: tuple[ObjectBody, ...]
    remove: tuple[str, ...]
    status: Status
    transitions: tuple[Transition, ...]
    requeue_after: float | None = None
