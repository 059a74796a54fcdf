"""The memory where models may run: of this machine, or of the nodes of a cluster."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from ams_cli import machine
from ams_cli.plan import Machine

if TYPE_CHECKING:
    from ams_kube.objects import Node


class CapacityError(Exception):
    """The cluster doesn't answer; the message is a sentence."""


def this_machine() -> Machine:
    return Machine(machine.ram_available(), machine.gpu_free_bytes())


def disk_free(folder: Path) -> int | None:
    """Free bytes where `folder` is, or will be."""
    for path in (folder, *folder.parents):
        if path.is_dir():
            return shutil.disk_usage(path).free
    return None


async def nodes_of_cluster() -> list["Node"]:
    """The nodes, with what they have in all: what others use there is kubectl's to say. CapacityError."""
    from ams_kube.client import Client, NoCluster
    from ams_kube.errors import KubeError
    from ams_kube.objects import NODES

    try:
        async with await Client.connect("ams") as client:
            return await client.list(NODES)
    except (NoCluster, KubeError) as error:
        raise CapacityError(str(error)) from None
