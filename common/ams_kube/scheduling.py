"""What nodes have free for a model's pods, as `kubectl describe nodes` adds it up. Pure, on objects that were read."""

from collections.abc import Iterable, Mapping

import msgspec
from ams_common.engines.wishes import engine_resources
from ams_common.quantity import parse_quantity
from ams_common.resource.spec import Spec
from ams_common.why.scheduling import NodeOffer

from ams_kube.kinds import Kind
from ams_kube.node_selection import selects, untolerated
from ams_kube.objects import Metadata, Node


class ContainerRequests(msgspec.Struct, frozen=True, kw_only=True):
    requests: dict[str, str | int | float] = {}


class RequestingContainer(msgspec.Struct, frozen=True, kw_only=True):
    resources: ContainerRequests = ContainerRequests()


class RequestingSpec(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    node_name: str = ""
    containers: list[RequestingContainer] = []
    init_containers: list[RequestingContainer] = []


class RequestingStatus(msgspec.Struct, frozen=True, kw_only=True):
    phase: str = ""


class RequestingPod(msgspec.Struct, frozen=True, kw_only=True):
    """Any pod of the cluster, as far as what it takes of a node."""

    metadata: Metadata = Metadata()
    spec: RequestingSpec = RequestingSpec()
    status: RequestingStatus = RequestingStatus()

    def takes(self) -> dict[str, float]:
        """What the scheduler reserves for it: its containers together, or the largest of those that run before."""
        total: dict[str, float] = {}
        for container in self.spec.containers:
            for resource, quantity in container.resources.requests.items():
                total[resource] = total.get(resource, 0.0) + _number(quantity)
        for container in self.spec.init_containers:
            for resource, quantity in container.resources.requests.items():
                total[resource] = max(total.get(resource, 0.0), _number(quantity))
        return total


REQUESTING_PODS: Kind[RequestingPod] = Kind("v1", "Pod", "pods", RequestingPod)


def node_offers(nodes: Iterable[Node], pods: Iterable[RequestingPod], spec: Spec) -> list[NodeOffer]:
    """Each node, for pods of a model with this spec."""
    used: dict[str, dict[str, float]] = {}
    for pod in pods:
        if pod.spec.node_name and pod.status.phase not in ("Succeeded", "Failed"):
            of_node = used.setdefault(pod.spec.node_name, {})
            for resource, amount in pod.takes().items():
                of_node[resource] = of_node.get(resource, 0.0) + amount
    return [
        NodeOffer(
            name=node.metadata.name,
            allocatable=node.status.allocatable,
            used=used.get(node.metadata.name, {}),
            taints=tuple(
                f"{taint.key}{'=' + taint.value if taint.value else ''}:{taint.effect}"
                for taint in untolerated(node, spec)
            ),
            unschedulable=node.spec.unschedulable,
            selected=selects(node, spec),
        )
        for node in nodes
    ]


def asked(spec: Spec) -> Mapping[str, str]:
    """What a pod of this model asks a node for."""
    resources = engine_resources(spec)
    requests = {name: str(quantity) for name, quantity in resources.limits.items()}
    return requests | {name: str(quantity) for name, quantity in resources.requests.items()}


def _number(quantity: str | float) -> float:
    try:
        return float(parse_quantity(str(quantity)))
    except ValueError:
        return 0.0
