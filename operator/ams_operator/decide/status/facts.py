"""All that a status is made of, gathered once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import LockStatus
from ams_kube.objects import Claim, Deployment

from ams_operator.decide.preflight.verdict import Verdict
from ams_operator.decide.replicas import Wanted
from ams_operator.decide.status.pods import PodView, Problem


@dataclass(frozen=True, slots=True)
class Facts:
    """`pods` are the living ones, newest first. `weights`: verified on the volume, or in a pod that serves."""

    resource: ModelDeployment
    wanted: Wanted
    verdict: Verdict
    asking: bool
    refusal: Problem | None  # of the resource as a whole: nothing is made for it
    blocked: bool  # nothing new is made for it
    waits_for_predecessor: bool = False
    deployment: Deployment | None = None
    claim: Claim | None = None
    pods: Sequence[PodView] = ()
    weights: bool = False
    lock: LockStatus | None = None
    refusals: Mapping[str, str] = field(default_factory=dict)

    @property
    def ready_pods(self) -> int:
        return sum(view.stage == "ready" for view in self.pods)

    @property
    def front(self) -> PodView | None:
        """The pod that tells most about what comes: the newest that doesn't serve yet."""
        return next((view for view in self.pods if view.stage != "ready"), None)

    def problem(self, condition: str) -> Problem | None:
        """What the pods say against a condition, the newest pod first."""
        found = (view.problem for view in self.pods)
        return next((each for each in found if each is not None and each.condition == condition), None)
