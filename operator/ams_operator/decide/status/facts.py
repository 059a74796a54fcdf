"""All that a status is made of, gathered once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ams_common.lifecycle import Phase
from ams_common.naming import GivenNames
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import AdapterStatus, LockStatus
from ams_kube.objects import Claim

from ams_operator.decide.engine import Engine
from ams_operator.decide.preflight.verdict import Verdict
from ams_operator.decide.replicas import Replicas
from ams_operator.decide.status.pods import PodView
from ams_operator.decide.status.problem import Problem
from ams_operator.decide.workload import Workload


@dataclass(frozen=True, slots=True)
class Facts:
    """`pods` are the living ones that answer requests, newest first; `worker_problems` those of pods on other nodes.

    `weights`: verified on the volume, or in a pod that serves. `stands_still_for`: nothing has moved of what is under
    way for so many seconds, the deadline, and more; a time that goes on would be another status each second. None while
    it isn't so long. `pulls` is the image of a new version that is pulled before the running pod ends, `pull_problem`
    why it can't be. `outdated`: the pods are of an older version of image or operator, and `renewed` are the models
    whose turn it is (None: nobody is renewed without a change).
    """

    resource: ModelDeployment
    names: GivenNames
    replicas: Replicas
    verdict: Verdict
    preflight_pending: bool
    rejection: Problem | None  # of the resource as a whole: nothing is made for it
    blocked: bool  # nothing new is made for it
    engine: Engine | None = None  # None of a resource that can't be read
    engine_version: str | None = None
    waits_for_predecessor: bool = False
    workload: Workload | None = None
    claim: Claim | None = None
    pods: Sequence[PodView] = ()
    worker_problems: Sequence[Problem] = ()
    weights: bool = False
    lock: LockStatus | None = None
    refused_children: Mapping[str, str] = field(default_factory=dict)
    stands_still_for: int | None = None
    pulls: str | None = None
    pull_problem: Problem | None = None
    outdated: bool = False
    renewed: Sequence[str] | None = ()
    adapters: Sequence[AdapterStatus] | None = None  # None where pods have theirs from start to end

    @property
    def stopped(self) -> bool:
        """No pod is asked for, and no request asks for one either."""
        return self.resource.spec.autoscaling is None and self.resource.spec.replicas == 0

    @property
    def ready_pods(self) -> int:
        return sum(view.stage is Phase.READY for view in self.pods)

    @property
    def newest_unready_pod(self) -> PodView | None:
        """The one that shows what comes next."""
        return next((view for view in self.pods if view.stage is not Phase.READY), None)

    def problem(self, condition: str) -> Problem | None:
        """What makes a condition False, of the newest pod that has such a problem; then of those on other nodes."""
        problems = (*(view.problem for view in self.pods), *self.worker_problems)
        return next((each for each in problems if each is not None and each.condition == condition), None)
