"""The ConfigMap with the list of a model's adapters, where its pods take another one while they run.

It is the one place that tells which there are: pods of whatever age read it, and it is no part of what pods are like.
"""

from ams_common.adapters import LIST_FILE
from ams_common.names import child_name
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.common import ObjectBody, child_metadata
from ams_operator.decide.children.sources import pod_adapters_text
from ams_operator.decide.engine import Engine, changes_adapters

LIST_DIR = "/etc/ams"
LIST_MOUNT: ObjectBody = {"name": "adapters", "mountPath": LIST_DIR, "readOnly": True}


def adapter_list(resource: ModelDeployment, engine: Engine) -> ObjectBody | None:
    """None where the pods' own template says which adapters they have, or there are none."""
    if not changes_adapters(resource, engine):
        return None
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": child_metadata(resource),
        "data": {LIST_FILE: pod_adapters_text(resource)},
    }


def list_volume(resource: ModelDeployment) -> ObjectBody:
    return {"name": LIST_MOUNT["name"], "configMap": {"name": child_name(resource.metadata.name)}}
