"""Where models may run, with the memory that is free there: this machine, or the nodes of a cluster."""

import shutil
from pathlib import Path

import msgspec
from ams_common.quantity import InvalidQuantity, parse_bytes

from ams_cli import machine
from ams_cli.plan import Place

_GPU_MEMORY_LABEL = "nvidia.com/gpu.memory"  # MiB of one GPU, by the GPU feature discovery


class PlacesError(Exception):
    """The cluster can't be asked; the message is a sentence."""


def of_machine() -> list[Place]:
    return [Place("this machine", machine.ram_available(), machine.gpu_free_bytes(), machine.gpu_count())]


def disk_free(folder: Path) -> int | None:
    """Free bytes where `folder` is, or will be."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            return shutil.disk_usage(path).free
    return None


async def of_cluster() -> list[Place]:
    """The nodes that take pods, with what they have in all: what others use there may be asked of kubectl."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.kinds import Kind

    try:
        async with await Client.connect("ams") as client:
            nodes = await client.list(Kind("v1", "Node", "nodes", _Node))
    except (NoCluster, KubeError) as error:
        raise PlacesError(str(error)) from None
    return [_place(node) for node in nodes if not node.spec.unschedulable]


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""
    labels: dict[str, str] = {}


class _Spec(msgspec.Struct, frozen=True):
    unschedulable: bool = False


class _Status(msgspec.Struct, frozen=True):
    allocatable: dict[str, str] = {}


class _Node(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _Status = _Status()


def _place(node: _Node) -> Place:
    allocatable = node.status.allocatable
    gpus = sum(_bytes(count) or 0 for name, count in allocatable.items() if name.endswith("/gpu"))
    label = node.metadata.labels.get(_GPU_MEMORY_LABEL, "")
    of_each = int(label) << 20 if label.isdigit() else 0
    return Place(
        f"node {node.metadata.name}",
        _bytes(allocatable.get("memory", "")),
        (of_each,) * gpus if of_each else (),
        gpus,
    )


def _bytes(quantity: str) -> int | None:
    try:
        return parse_bytes(quantity)
    except InvalidQuantity:
        return None
