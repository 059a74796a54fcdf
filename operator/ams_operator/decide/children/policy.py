"""The NetworkPolicy of the model's pods: gateways, the operator and who reads metrics get in, nobody else.

Where a replica takes several nodes, its engine's processes talk to each other on ports that they choose themselves,
with no proof of who they are: only the model's own pods may. The kubelet's probes come from the pod's own node, which
no policy keeps out.
"""

from typing import Any

from ams_common.outside import read_json
from ams_common.resource.spec import ModelDeployment

from ams_operator.decide.children.common import ObjectBody, child_metadata, group_selector, selector
from ams_operator.decide.children.containers import SERVE_PORT
from ams_operator.settings import OperatorSettings


def policy(resource: ModelDeployment, settings: OperatorSettings) -> ObjectBody | None:
    """None where no policies are wanted."""
    if not (peers := allowed_peers(settings)):
        return None
    ports = [{"port": port, "protocol": "TCP"} for port in (SERVE_PORT, settings.progress_port)]
    pods, ingress = selector(resource), [{"from": peers, "ports": ports}]
    if resource.spec.engine.nodes > 1:
        pods = group_selector(resource)
        ingress.append({"from": [{"podSelector": {"matchLabels": pods}}]})
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": child_metadata(resource),
        "spec": {
            "podSelector": {"matchLabels": pods},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def allowed_peers(settings: OperatorSettings) -> list[dict[str, Any]]:
    """Who may reach model pods, as the setting has it. InvalidJson where that is no list of objects."""
    return read_json(settings.network_policy_from, list[dict[str, Any]]) if settings.network_policy_from else []
