"""The headless Service, whose EndpointSlices list the ready pods for gateways."""

from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.common import ObjectBody, child_metadata, selector
from ams_operator.decide.children.containers import SERVE_PORT


def service(resource: ModelDeployment) -> ObjectBody:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(resource),
        "spec": {
            "clusterIP": "None",
            "selector": selector(resource),
            "ports": [{"name": "http", "port": SERVE_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }
