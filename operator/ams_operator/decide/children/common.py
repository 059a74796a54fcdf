"""What all children have in common: name, labels, owner, and the digests by which a change is noticed."""

import hashlib
from typing import Any

import msgspec
from ams_common import labels
from ams_common.names import API_VERSION, KIND, child_name
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.engine import Engine, changes_adapters

ObjectBody = dict[str, Any]


def child_labels(resource: ModelDeployment) -> dict[str, str]:
    return {
        "app.kubernetes.io/name": "ai-model",
        labels.MANAGED_BY: labels.MANAGER,
        labels.MODEL: resource.metadata.name,
    }


def selector(resource: ModelDeployment) -> dict[str, str]:
    """Selects the model's pods and no others; never changes, as a Deployment's selector can't."""
    return {labels.MODEL: resource.metadata.name, labels.MANAGED_BY: labels.MANAGER}


def group_selector(resource: ModelDeployment) -> dict[str, str]:
    """Selects the pods of all nodes of its replicas; `selector` selects those that answer requests."""
    return {labels.GROUP: resource.metadata.name, labels.MANAGED_BY: labels.MANAGER}


def child_metadata(
    resource: ModelDeployment, *, owned: bool = True, annotations: dict[str, str] | None = None
) -> ObjectBody:
    """The child's metadata. One that is not `owned` outlives the resource."""
    built: ObjectBody = {
        "name": child_name(resource.metadata.name),
        "namespace": resource.metadata.namespace,
        "labels": child_labels(resource),
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


def digest(value: object) -> str:
    """Of anything that JSON can hold; equal for equal content."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:16]


def source_digest(resource: ModelDeployment, engine: Engine) -> str:
    """Of what determines the bytes of the weights, and of adapters that a pod has from its start to its end."""
    model = resource.spec.model
    signature = [model.signature] if model.signature is not None else []
    adapters = [] if changes_adapters(resource, engine) else resource.spec.adapters
    told = [["adapters", *sorted([each.name, each.source, each.lock] for each in adapters)]] if adapters else []
    return digest([model.source, model.lock, *signature, *told])


# What changes without a new template, or without one that anybody has to ask for.
_NOT_OF_PODS = ("replicas", "autoscaling", "suspend")


def spec_digest(resource: ModelDeployment, engine: Engine, *, prefetch: bool) -> str:
    """Of all that a user says about the pods."""
    spec = {name: value for name, value in msgspec.to_builtins(resource.spec).items() if name not in _NOT_OF_PODS}
    if (scaling := resource.spec.autoscaling) is not None and scaling.idle == "sleep":
        spec["sleeps"] = scaling.idle_seconds  # which the pod itself is told
    if changes_adapters(resource, engine):
        spec["adapters"] = "there are some"
    spec["model"] = {name: value for name, value in spec["model"].items() if name != "aliases"}
    return digest([spec, prefetch])
