"""Which kinds of objects belong to a ModelDeployment, and which model an object belongs to."""

from typing import Any

from ams_common.labels import GROUP, MODEL
from ams_common.names import KIND, child_name
from ams_kube.kinds import Kind
from ams_kube.objects import (
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEADER_WORKER_SETS,
    NETWORK_POLICIES,
    SERVICE_ACCOUNTS,
    SERVICES,
    AppliedOnly,
    Claim,
    Deployment,
    LeaderWorkerSet,
    Metadata,
    Service,
)

Child = Deployment | LeaderWorkerSet | Service | AppliedOnly | Claim
CHILDREN: dict[str, Kind[Any]] = {
    kind.name: kind
    for kind in (
        SERVICE_ACCOUNTS, SERVICES, NETWORK_POLICIES, CLAIMS, CONFIG_MAPS, DEPLOYMENTS, LEADER_WORKER_SETS,
    )
}  # fmt: skip
"""LeaderWorkerSet isn't Kubernetes' own: a cluster may lack it."""


def model_key(metadata: Metadata) -> str:
    """Key (`namespace/name`) of the ModelDeployment that an object's label names."""
    return f"{metadata.namespace}/{metadata.labels.get(MODEL) or metadata.labels.get(GROUP, '')}"


def is_worker(metadata: Metadata) -> bool:
    """Whether a pod's labels say that it is one of a replica's on another node than its leader's."""
    return MODEL not in metadata.labels and GROUP in metadata.labels


def child_key(metadata: Metadata) -> str:
    """Key of the ModelDeployment that a child belongs to: its owner's, whatever became of its labels."""
    owner = metadata.controller
    if owner is not None and owner.kind == KIND and child_name(owner.name) == metadata.name:
        return f"{metadata.namespace}/{owner.name}"
    return model_key(metadata)
