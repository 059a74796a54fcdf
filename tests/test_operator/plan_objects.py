"""Resources, children and pods as plans are made from them."""

from typing import Any

import msgspec
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from ams_kube.objects import Metadata, OwnerReference, Pod
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
    metadata = Metadata(
        name="ams-tiny", namespace="models", uid="c-1", owner_references=owners, annotations=annotations
    )
    return kind(metadata=metadata)


OURS = OwnerReference(uid="u-1", kind="ModelDeployment", name="tiny", controller=True)
OLD = OwnerReference(uid="u-0", kind="ModelDeployment", name="tiny", controller=True)
OTHER = OwnerReference(uid="x", kind="StatefulSet", name="db", controller=True)


def pod(message: str) -> Pod:
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
        },
    }
    return msgspec.convert(document, Pod)
