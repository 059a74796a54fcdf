"""The pod that only pulls an image, on the node where the running one is: it ends as soon as it has begun."""

from collections.abc import Mapping

import msgspec
from ams_common import labels
from ams_common.names import child_name
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.common import ObjectBody, child_metadata
from ams_operator.decide.children.containers import CONTAINER_SECURITY
from ams_operator.decide.children.pod import pod_security
from ams_operator.settings import OperatorSettings

PULL = "pull"


def pull_name(name: str) -> str:
    return f"{child_name(name)}-{PULL}"


def pull_pod(resource: ModelDeployment, settings: OperatorSettings, images: Mapping[str, str], node: str) -> ObjectBody:
    """`images` with when each is pulled.

    Without the label of the model's pods, so that neither Service nor Deployment take it for one.
    """
    spec, metadata = resource.spec, child_metadata(resource, annotations={labels.PULLS: ", ".join(images)})
    metadata["name"] = pull_name(resource.metadata.name)
    del metadata["labels"][labels.MODEL]
    metadata["labels"][labels.PULLS_FOR] = resource.metadata.name
    pod: ObjectBody = {
        "nodeName": node,
        "restartPolicy": "Never",
        "serviceAccountName": spec.service_account_name or child_name(resource.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "securityContext": pod_security(settings),
        "containers": [
            {
                "name": PULL if number == 0 else f"{PULL}-{number}",
                "image": image,
                "imagePullPolicy": policy,
                "command": ["python", "-c", ""],
                "resources": {
                    "requests": {"cpu": "10m", "memory": "32Mi"},
                    "limits": {"cpu": "100m", "memory": "64Mi"},
                },
                "securityContext": CONTAINER_SECURITY,
            }
            for number, (image, policy) in enumerate(images.items())
        ],
    }
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = msgspec.to_builtins(spec.image_pull_secrets)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod}
