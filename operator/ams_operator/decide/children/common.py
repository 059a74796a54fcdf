"""What all children have in common: name, labels, owner."""

from typing import Any

from ams_common.names import API_VERSION, KIND, child_name
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.kinds import LABEL_MANAGED_BY, LABEL_MODEL, MANAGER

Object = dict[str, Any]


def labels(resource: ModelDeployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ai-model",
        LABEL_MANAGED_BY: MANAGER,
        LABEL_MODEL: resource.metadata.name,
    }


def selector(resource: ModelDeployment) -> dict[str, str]:
    """What tells the model's pods from all others; never changes, as a Deployment's selector can't."""
    return {LABEL_MODEL: resource.metadata.name, LABEL_MANAGED_BY: MANAGER}


def metadata(resource: ModelDeployment, *, owned: bool = True, annotations: dict[str, str] | None = None) -> Object:
    """The child's metadata. One that is not `owned` outlives the resource."""
    built: Object = {
        "name": child_name(resource.metadata.name),
        "namespace": resource.metadata.namespace,
        "labels": labels(resource),
    }
    if annotations:
        built["annotations"] = annotations
    if owned:
        built["ownerReferences"] = [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": resource.metadata.name,
                "uid": resource.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return built
