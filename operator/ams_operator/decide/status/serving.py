"""What pods that serve say of themselves, and what a resource's status tells of that. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ams_common.admin import PodAdapter
from ams_common.resource.status import EngineStatus
from ams_kube.objects import Metadata


@dataclass(frozen=True, slots=True)
class ServingReport:
    """`engine` as in spec.engine.name; it and its version are empty where a pod doesn't tell them."""

    engine: str = ""
    engine_version: str = ""
    adapters: tuple[PodAdapter, ...] = ()


def newest_revision_first(pods: Sequence[Metadata], revisions: Mapping[str, int]) -> list[int]:
    """Places of `pods`, which are the newest first, in the order of their revisions, the newest first.

    `revisions` are the numbers that a Deployment gave its ReplicaSets, by their uid. A newer pod may be of an older
    revision, as where more replicas are asked for in the middle of a rollout.
    """

    def revision(place: int) -> int:
        controller = pods[place].controller
        return revisions.get(controller.uid, 0) if controller is not None else 0

    return sorted(range(len(pods)), key=revision, reverse=True)


def engine_version(name: str, reports: Sequence[ServingReport | None], before: EngineStatus | None) -> str | None:
    """The version of the engine `name`; None where nobody tells it.

    `reports` are those of the pods that serve, the newest revision's first, None of one that hasn't said anything yet;
    `before` is what status says. That stays until the newest was asked, while its engine is away, or while none serves.
    """
    known = before.version if before is not None and before.name == name else None
    for report in reports:
        if report is None:
            return known
        if report.engine == name:  # others have the engine that was asked for before
            return report.engine_version or known
    return known if not reports else None
