"""Whether the image of a new version can be had, found out before the running pod ends.

Where two pods can't share the volume, the old one has to end before the new one begins: an image that can't be pulled
would leave nothing that serves. So another pod pulls it first, beside the running one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ams_common import labels
from ams_common.lifecycle import Phase
from ams_common.reasons import Reason
from ams_kube.objects import Pod

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.children.pull import PULL, pull_pod
from ams_operator.decide.observed import Observed
from ams_operator.decide.status.endings import container_problem
from ams_operator.decide.status.pods import PodView
from ams_operator.decide.status.problem import Problem
from ams_operator.decide.workload import Workload, containers_of, ends_before_it_begins
from ams_operator.settings import OperatorSettings


@dataclass(frozen=True, slots=True)
class Pulling:
    """`image` (or several) is being pulled, and until then the workload stays as it is; `problem`: it can't be.

    `start` is the pod to be made for it, `end`: the one that is there isn't needed any more.
    """

    image: str | None = None
    problem: Problem | None = None
    start: ObjectBody | None = None
    end: bool = False


def pull_first(
    observed: Observed,
    pods: Sequence[PodView],
    workload: Workload | None,
    desired: ObjectBody | None,
    settings: OperatorSettings,
) -> Pulling:
    """`desired` is the workload that is to be applied."""
    present = own_pull(observed)
    unneeded = Pulling(end=present is not None)
    if desired is None or workload is None or not desired["spec"]["replicas"]:
        return unneeded
    present_images = {each.image for each in workload.containers} - {""}
    new = {
        each["image"]: each["imagePullPolicy"] for each in containers_of(desired) if each["image"] not in present_images
    }
    image = ", ".join(new)
    node = next((view.pod.spec.node_name for view in pods if view.stage is Phase.READY), None)
    replaces = ends_before_it_begins(desired) and new and present_images
    if not replaces or not node or image == observed.pull_refused:
        return unneeded
    if present is None:
        return Pulling(image, start=pull_pod(observed.resource, settings, new, node))
    if present.metadata.annotations.get(labels.PULLS) != image or present.spec.node_name != node:
        return Pulling(image, end=True)
    return _outcome(present, image)


def own_pull(observed: Observed) -> Pod | None:
    """The pod that pulls for this resource; one that was made for a predecessor is none."""
    pod = observed.pull
    if pod is None or pod.metadata.deletion_timestamp is not None:
        return None
    owner = pod.metadata.controller
    return pod if owner is not None and owner.uid == observed.resource.metadata.uid else None


def _outcome(pod: Pod, image: str) -> Pulling:
    statuses = [each for each in pod.status.container_statuses if each.name.startswith(PULL)]
    if not statuses:
        return Pulling() if pod.status.phase == "Failed" else Pulling(image)  # the node doesn't take it: not known
    problems = [container_problem(pod, each) for each in statuses if each.state.waiting is not None]
    for problem in problems:
        if problem is not None and problem.reason == Reason.IMAGE_PULL_FAILED:
            return Pulling(image, problem)
    # Others run, have run, or can't.
    waits = any(each.state.waiting is not None and each.state.waiting.reason in _BEFORE_THE_IMAGE for each in statuses)
    return Pulling(image) if waits else Pulling()


_BEFORE_THE_IMAGE = ("", "ContainerCreating", "PodInitializing")
