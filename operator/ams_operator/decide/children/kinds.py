"""The objects that belong to a ModelDeployment: their kinds, and the labels and annotations that they carry."""

from typing import Any

from ams_kube.kinds import Kind
from ams_kube.objects import (
    CLAIMS,
    DEPLOYMENTS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Claim,
    Deployment,
    Metadata,
    MetadataOnly,
    Service,
)

MANAGER = "ams-operator"

LABEL_MODEL = "aimodelserver.io/model"
LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
SELECTOR = f"{LABEL_MANAGED_BY}={MANAGER}"

ANNOTATION_APPLIED = "aimodelserver.io/applied"  # hash of the object as it was last applied
ANNOTATION_OWNER = "aimodelserver.io/retained-by"  # on a volume without an owner: the resource that may use it
ANNOTATION_WEIGHTS = "aimodelserver.io/weights"  # on a volume: digest of the source whose weights are on it, verified
ANNOTATION_LOCK = "aimodelserver.io/lock"  # on a volume: the lock of these weights, as status.lock
ANNOTATION_PREFETCH = "aimodelserver.io/prefetch"  # on a Deployment whose pod only fetches the weights

Child = Deployment | Service | MetadataOnly | Claim
CHILDREN: dict[str, Kind[Any]] = {kind.name: kind for kind in (SERVICE_ACCOUNTS, SERVICES, CLAIMS, DEPLOYMENTS)}


def model_key(metadata: Metadata) -> str:
    """Key (`namespace/name`) of the ModelDeployment that an object's label names."""
    return f"{metadata.namespace}/{metadata.labels.get(LABEL_MODEL, '')}"
