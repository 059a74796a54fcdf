"""What a model may take of memory on the nodes of a cluster, as far as its resource and the nodes' labels say. Pure."""

from collections.abc import Mapping, Sequence

from ams_common.engines.wishes import engine_resources
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, MemoryOffers
from ams_common.quantity import InvalidQuantity, parse_bytes, parse_memory
from ams_common.resource.spec import ModelDeployment, Spec

from ams_kube.node_selection import takes
from ams_kube.objects import Node


def memory_offers(resource: ModelDeployment, nodes: Sequence[Node] | None) -> MemoryOffers:
    """By spec.maxMemory, else by the nodes that its pods may run on. `nodes` is None where they may not be listed."""
    spec = resource.spec
    devices = gpus_requested(spec)
    resources = engine_resources(spec)
    limit = resources.limits.get("memory")
    ram = parse_bytes(limit) if limit is not None else None
    declared = declared_memory(spec)
    if declared.ram is not None:
        ram = declared.ram if ram is None else min(ram, declared.ram)
    if declared.gpus or (declared.ram is not None and not devices):
        gpus = declared.gpus * spec.engine.nodes
        return MemoryOffers((MemoryOffer("spec.maxMemory", DeviceMemory(gpus, ram)),))
    if not devices and ram is not None:
        return MemoryOffers((MemoryOffer(_place(spec), DeviceMemory(ram=ram)),))
    if nodes is None:
        return MemoryOffers(unknown=f"Memory wasn't checked: nodes may not be listed. {_set(devices, labels=False)}")
    options = tuple(
        MemoryOffer(f"node {node.metadata.name}", memory)
        for node in nodes
        if takes(node, spec) and (memory := _of_node(node, devices, ram)) is not None
    )
    if options and spec.engine.nodes > 1:
        return _together(options, spec.engine.nodes)
    if options:
        return MemoryOffers(options)
    what = "its memory" if not devices else f"the memory of {' and '.join(devices)}"
    return MemoryOffers(
        unknown=f"Memory wasn't checked: no node that the model may run on has {what} known. {_set(devices)}"
    )


def _together(options: Sequence[MemoryOffer], nodes: int) -> MemoryOffers:
    """The memory of the roomiest nodes, each with as much as the least of them has: the model is divided evenly."""
    if len(options) < nodes:
        have = f"{len(options)} that the model may run on {'has' if len(options) == 1 else 'have'} its GPUs"
        text = f"Memory wasn't checked: spec.engine.nodes asks for {nodes} nodes, and {have}."
        return MemoryOffers(unknown=text)
    roomiest = sorted(options, key=lambda offer: sum(offer.memory.gpus), reverse=True)[:nodes]
    least = roomiest[-1]
    rams = [offer.memory.ram for offer in roomiest]
    ram = None if None in rams else min(each for each in rams if each is not None)
    return MemoryOffers((MemoryOffer(f"{nodes} nodes as {least.place}", DeviceMemory(least.memory.gpus * nodes, ram)),))


def gpus_requested(spec: Spec) -> dict[str, int]:
    """The extended resources that a pod asks for, such as nvidia.com/gpu, and how many of each."""
    resources = engine_resources(spec)
    requested = {**resources.requests, **resources.limits}
    return {name: parse_bytes(count) for name, count in sorted(requested.items()) if "/" in name}


def _place(spec: Spec) -> str:
    return "spec.engine.resources" if spec.engine.resources is not None else "spec.resources"


def memory_label(device: str) -> str:
    """The label of a node with the MiB of each such device, as GPU feature discovery sets it."""
    return f"{device}.memory"


def declared_memory(spec: Spec) -> DeviceMemory:
    """What spec.maxMemory allows: of each GPU that it names, in their order, and of the machine."""
    sizes = {device: parse_memory(size) for device, size in spec.max_memory.items()}
    gpus = sorted((device for device in sizes if device.isdigit()), key=int)
    return DeviceMemory(tuple(sizes[gpu] for gpu in gpus), sizes.get("cpu"))


def _of_node(node: Node, devices: Mapping[str, int], limit: int | None) -> DeviceMemory | None:
    """None where the node has too few of the devices, or doesn't say how much memory they have."""
    gpus: tuple[int, ...] = ()
    for device, count in devices.items():
        of_each = node.metadata.labels.get(memory_label(device), "")
        if not of_each.isdigit() or (_quantity(node, device) or 0) < count:
            return None
        gpus += (int(of_each) << 20,) * count
    ram = _quantity(node, "memory")
    if limit is not None:
        ram = limit if ram is None else min(ram, limit)
    return DeviceMemory(gpus, ram) if gpus or ram is not None else None


def _quantity(node: Node, name: str) -> int | None:
    try:
        return parse_bytes(node.status.allocatable.get(name, ""))
    except InvalidQuantity:
        return None


def _set(devices: Mapping[str, int], *, labels: bool = True) -> str:
    if not devices:
        return "Set spec.resources.limits.memory or spec.maxMemory."
    if not labels:
        return "Set spec.maxMemory."
    names = " and ".join(memory_label(device) for device in devices)
    return f"Set spec.maxMemory, or the nodes' label {names} (GPU feature discovery does)."
