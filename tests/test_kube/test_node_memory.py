"""What nodes offer a model of memory, and which of them the scheduler may choose: tables of cases."""

from typing import Any

import msgspec
import pytest
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, MemoryOffers
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from ams_kube.node_memory import memory_offers
from ams_kube.node_selection import takes
from ams_kube.objects import Node

GIB = 1 << 30
MIG = "nvidia.com/mig-1g.10gb"


def model(**spec: Any) -> ModelDeployment:
    return parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"source": "hf://acme/m"}, **spec},
        }
    )


def asks(limits: dict[str, Any], **spec: Any) -> ModelDeployment:
    return model(resources={"limits": limits}, **spec)


def node(name: str = "a", *, labels: Any = None, taints: Any = (), unschedulable: bool = False, **has: str) -> Node:
    document = {
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"unschedulable": unschedulable, "taints": list(taints)},
        "status": {"allocatable": {"memory": "64Gi", **has}},
    }
    return msgspec.convert(document, Node)


def gpu_node(name: str = "a", mebibytes: str = "81920", count: str = "2", **more: Any) -> Node:
    labels = {"nvidia.com/gpu.memory": mebibytes} | more.pop("labels", {})
    return node(name, labels=labels, **{"nvidia.com/gpu": count}, **more)


SPANNING = {"engine": {"name": "vllm", "nodes": 2}, "cache": {"accessMode": "ReadWriteMany"}}
ONE, TWO = {"nvidia.com/gpu": 1}, {"nvidia.com/gpu": 2}


@pytest.mark.parametrize(
    ("resource", "nodes", "place", "memory"),
    [
        (asks(ONE), [gpu_node()], "node a", DeviceMemory((80 * GIB,), 64 * GIB)),
        (asks(TWO), [gpu_node()], "node a", DeviceMemory((80 * GIB, 80 * GIB), 64 * GIB)),
        (asks({**ONE, "memory": "32Gi"}), [gpu_node()], "node a", DeviceMemory((80 * GIB,), 32 * GIB)),
        (asks({MIG: 1}), [node(labels={f"{MIG}.memory": "9728"}, **{MIG: "7"})], "node a",
         DeviceMemory((9728 << 20,), 64 * GIB)),
        (asks(ONE, maxMemory={"0": "40Gi"}), [gpu_node()], "spec.maxMemory", DeviceMemory((40 * GIB,), None)),
        (asks(TWO, maxMemory={"0": "40Gi", "1": "40Gi"}, **SPANNING), [gpu_node()], "spec.maxMemory",
         DeviceMemory((40 * GIB,) * 4, None)),
        (asks(TWO, **SPANNING), [gpu_node("a"), gpu_node("b", "40960"), gpu_node("c", "24576")], "2 nodes as node b",
         DeviceMemory((40 * GIB,) * 4, 64 * GIB)),
        (asks(ONE, maxMemory={"cpu": "8Gi"}), [gpu_node()], "node a", DeviceMemory((80 * GIB,), 8 * GIB)),
        (model(maxMemory={"1": "8Gi", "0": "4GiB", "cpu": "9Gi"}), None, "spec.maxMemory",
         DeviceMemory((4 * GIB, 8 * GIB), 9 * GIB)),
        (asks({"memory": "16Gi"}), None, "spec.resources", DeviceMemory((), 16 * GIB)),
        (asks({"memory": "16Gi"}, maxMemory={"cpu": "8Gi"}), None, "spec.maxMemory", DeviceMemory((), 8 * GIB)),
        (model(), [node()], "node a", DeviceMemory((), 64 * GIB)),
        (asks(ONE, nodeSelector={"pool": "big"}), [gpu_node("small", "16384"), gpu_node("big", labels={"pool": "big"})],
         "node big", DeviceMemory((80 * GIB,), 64 * GIB)),
    ],
)  # fmt: skip
def test_where_memory_is_known(
    resource: ModelDeployment, nodes: list[Node] | None, place: str, memory: DeviceMemory
) -> None:
    assert memory_offers(resource, nodes) == MemoryOffers((MemoryOffer(place, memory),))


NO_LABEL = (
    "Memory wasn't checked: no node that the model may run on has the memory of nvidia.com/gpu known. Set"
    " spec.maxMemory, or the nodes' label nvidia.com/gpu.memory (GPU feature discovery does)."
)


@pytest.mark.parametrize(
    ("resource", "nodes", "sentence"),
    [
        (asks(ONE), [], NO_LABEL),
        (asks(ONE), [gpu_node(mebibytes="")], NO_LABEL),
        (asks({"nvidia.com/gpu": 4}), [gpu_node()], NO_LABEL),
        (asks(ONE), [gpu_node(unschedulable=True)], NO_LABEL),
        (asks(ONE), None, "Memory wasn't checked: nodes may not be listed. Set spec.maxMemory."),
        (asks(ONE, **SPANNING), [gpu_node()], "Memory wasn't checked: spec.engine.nodes asks for 2 nodes, and 1 that"
         " the model may run on has its GPUs."),
        (model(), None, "Memory wasn't checked: nodes may not be listed. Set spec.resources.limits.memory or"
         " spec.maxMemory."),
    ],
)  # fmt: skip
def test_where_it_is_not_known_the_sentence_says_what_to_set(
    resource: ModelDeployment, nodes: list[Node] | None, sentence: str
) -> None:
    assert memory_offers(resource, nodes) == MemoryOffers(unknown=sentence)


def affinity(*terms: dict[str, Any]) -> dict[str, Any]:
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": list(terms)}}
    return {"affinity": {"nodeAffinity": required}}


def label(key: str, operator: str, *values: str) -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


TAINT = {"key": "gpu", "value": "a100", "effect": "NoSchedule"}


@pytest.mark.parametrize(
    ("spec", "node", "takes_it"),
    [
        ({}, node(), True),
        ({}, node(unschedulable=True), False),
        ({"nodeSelector": {"zone": "a"}}, node(labels={"zone": "a"}), True),
        ({"nodeSelector": {"zone": "a"}}, node(labels={"zone": "b"}), False),
        ({}, node(taints=[TAINT]), False),
        ({}, node(taints=[{**TAINT, "effect": "PreferNoSchedule"}]), True),
        ({"tolerations": [{"operator": "Exists"}]}, node(taints=[TAINT]), True),
        ({"tolerations": [{"key": "gpu", "value": "a100"}]}, node(taints=[TAINT]), True),
        ({"tolerations": [{"key": "gpu", "value": "t4"}]}, node(taints=[TAINT]), False),
        ({"tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoExecute"}]}, node(taints=[TAINT]), False),
        ({"resources": {"limits": ONE}}, node(taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]), True),
        (affinity({"matchExpressions": [label("zone", "In", "a", "b")]}), node(labels={"zone": "b"}), True),
        (affinity({"matchExpressions": [label("zone", "In", "a")]}, {"matchExpressions": [label("x", "Exists")]}),
         node(labels={"x": ""}), True),
        (affinity({"matchExpressions": [label("zone", "NotIn", "a"), label("x", "Exists")]}), node(), False),
        (affinity({"matchExpressions": [label("x", "DoesNotExist")]}), node(), True),
        (affinity({"matchExpressions": [label("cpus", "Gt", "8")]}), node(labels={"cpus": "16"}), True),
        (affinity({"matchExpressions": [label("cpus", "Lt", "8")]}), node(labels={"cpus": "many"}), False),
        (affinity({"matchFields": [label("metadata.name", "In", "a")]}), node("a"), True),
        (affinity({"matchFields": [label("metadata.name", "In", "a")]}), node("b"), False),
        (affinity({}), node(), False),
        ({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}}, node(), True),
    ],
)  # fmt: skip
def test_which_nodes_the_scheduler_may_choose(spec: dict[str, Any], node: Node, takes_it: bool) -> None:
    assert takes(node, model(**spec).spec) == takes_it
