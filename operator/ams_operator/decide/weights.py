"""Whether a model's weights are on its volume, and their lock."""

from collections.abc import Sequence

from ams_common import labels
from ams_common.lock import lock_of, lock_status
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import LockStatus
from ams_kube.objects import Claim

from ams_operator.decide.children.common import source_digest
from ams_operator.decide.engine import Engine
from ams_operator.decide.status.pods import PodView


def has_weights(resource: ModelDeployment, engine: Engine, claim: Claim | None, pods: Sequence[PodView]) -> bool:
    """By a pod that has downloaded them, or by the volume's annotation from the time when one had."""
    digest = source_digest(resource, engine)
    kept = claim is not None and claim.metadata.deletion_timestamp is None
    if kept and claim is not None and claim.metadata.annotations.get(labels.WEIGHTS) == digest:
        return True
    return any(view.verified and view.pod.metadata.annotations.get(labels.WEIGHTS) == digest for view in pods)


def lock_of_weights(
    resource: ModelDeployment, engine: Engine, claim: Claim | None, pods: Sequence[PodView]
) -> LockStatus | None:
    """As reported by the newest pod that has the weights, else as the volume's annotation has it, else as pinned."""
    digest = source_digest(resource, engine)
    for view in pods:
        if view.lock is not None and view.pod.metadata.annotations.get(labels.WEIGHTS) == digest:
            return view.lock
    annotations = claim.metadata.annotations if claim is not None else {}
    noted = lock_of(annotations.get(labels.LOCK, "")) if annotations.get(labels.WEIGHTS) == digest else None
    pinned = resource.spec.model.lock
    return noted or (lock_status(pinned) if pinned else None)
