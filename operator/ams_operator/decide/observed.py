"""What a plan is made from, and what it is: all trimmed, frozen, and free of clients and clocks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ams_common.memory_offers import MemoryOffers
from ams_common.progress import Progress
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Status
from ams_kube.objects import Pod

from ams_operator.decide.children.common import Object
from ams_operator.decide.children.kinds import Child
from ams_operator.decide.preflight.report import HubReport


@dataclass(frozen=True, slots=True)
class Observed:
    """One ModelDeployment and all that is known about it.

    `children` by kind, whoever owns them. `refusals`: the API server's words about a child that it refused, by kind.
    `report` is the hub's, None where it isn't asked; `asking`: it hasn't answered yet. `offers` of memory count for a
    report only. `replicas`: what the load asks for, None while it isn't known.
    `progress` by a pod's uid. `generations`: the children's generation after our last apply.
    """

    resource: ModelDeployment
    children: Mapping[str, Child] = field(default_factory=dict)
    pods: Sequence[Pod] = ()
    progress: Mapping[str, Progress] = field(default_factory=dict)
    report: HubReport | None = None
    asking: bool = False
    offers: MemoryOffers = field(default_factory=MemoryOffers)
    replicas: int | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)
    generations: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A transition that is told to people: core/v1's Event, without its times."""

    type: str  # Normal or Warning
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order. `remove` are kinds of children of ours that aren't wanted any more."""

    apply: tuple[Object, ...]
    remove: tuple[str, ...]
    status: Status
    events: tuple[Event, ...]
    requeue_after: float | None = None
