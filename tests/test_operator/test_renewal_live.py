"""An operator that comes with another pod image renews running models one by one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from ams_common import labels
from ams_kube.client import Client
from ams_kube.errors import Conflict, NotFound
from ams_kube.kinds import Kind
from ams_operator.decide.children.pull import PULL
from kube_cluster import Anything, ControlPlane
from models import DEPLOYMENTS, PODS, container, create, model, pod_of, report, until, until_condition
from operator_process import operating

NAMES = ("one", "two", "three")
CONDITIONS = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "Ready")]
STARTED = {"startedAt": "2026-01-01T00:00:00Z"}
DOWNLOADED = container("download", ready=True, terminated={"exitCode": 0, "reason": "Completed"})
NODE = "renewal"
NODES: Kind[Any] = Kind("v1", "Node", "nodes", Anything)


class Kubelet:
    """That of one node, which takes every pod and pulls every image; servers get ready when they are told to."""

    def __init__(self, kube: Client, home: str) -> None:
        self._kube = kube
        self._home = home
        self._ready: set[str] = set()

    async def make_ready(self, name: str) -> None:
        self._ready.add((await pod_of(self._kube, self._home, name)).metadata.uid)

    async def run(self) -> None:
        while True:
            for pod in await self._kube.list(PODS, self._home):
                with suppress(NotFound, Conflict):
                    await self._look_after(pod)
            await asyncio.sleep(0.2)

    async def _look_after(self, pod: Any) -> None:
        metadata = pod.metadata
        if metadata.deletion_timestamp is not None:
            options = {"gracePeriodSeconds": 0}
            await self._kube.request("DELETE", PODS.path(self._home, metadata.name), body=options)
        elif "nodeName" not in pod.spec:
            body = {"metadata": {"name": metadata.name}, "target": {"kind": "Node", "name": NODE}}
            await self._kube.request("POST", PODS.path(self._home, metadata.name, "binding"), body=body)
        elif labels.PULLS in metadata.annotations:
            pulled = container(PULL, running=STARTED)
            await report(self._kube, pod, phase="Running", containerStatuses=[pulled])
        elif metadata.uid in self._ready:
            serves = container("serve", ready=True, running=STARTED)
            said = {"initContainerStatuses": [DOWNLOADED], "containerStatuses": [serves]}
            await report(self._kube, pod, conditions=CONDITIONS, phase="Running", **said)


@asynccontextmanager
async def kubelet_of(kube: Client, home: str) -> AsyncIterator[Kubelet]:
    with suppress(Conflict):
        await kube.create(NODES, None, {"metadata": {"name": NODE}})
    kubelet = Kubelet(kube, home)
    task = asyncio.create_task(kubelet.run())
    try:
        yield kubelet
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(ended, asyncio.CancelledError), ended
        with suppress(NotFound):
            await kube.delete(NODES, None, NODE)


def image_of(deployment: Any) -> str:
    return str(deployment.spec["template"]["spec"]["containers"][0]["image"])


async def renewed(kube: Client, home: str, count: int) -> set[str]:
    """Names of the models with the new image, once there are so many, and their old pods are gone."""

    def are(objects: dict[str, Any]) -> bool:
        changed = [each for each in objects.values() if image_of(each) == "ams-pod:next"]
        return len(changed) >= count and all(map(is_observed, changed))

    objects = await until(kube, DEPLOYMENTS, home, are)
    return {name.removeprefix("ams-") for name, each in objects.items() if image_of(each) == "ams-pod:next"}


def is_observed(deployment: Any) -> bool:
    return int(deployment.status.get("observedGeneration", 0)) >= deployment.metadata.generation


async def test_running_models_are_renewed_one_by_one(
    kube: Client, control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with kubelet_of(kube, namespace) as kubelet:
        with operating(control_plane, tmp_path / "operator.log", namespace):
            for name in NAMES:
                await create(kube, namespace, name, model())
                await kubelet.make_ready(name)
            for name in NAMES:
                await until_condition(kube, namespace, name, "Progressing", "False", "Complete")
        with operating(control_plane, tmp_path / "operator.log", namespace, pod_image="ams-pod:next"):
            done: set[str] = set()
            for count in range(1, 4):
                now = await renewed(kube, namespace, count)
                [newest] = now - done
                for name in set(NAMES) - now:
                    await until_condition(kube, namespace, name, "Progressing", "False", "Outdated", "an older version")
                    await until_condition(kube, namespace, name, "Ready", "True", "Ready")
                await asyncio.sleep(1.0)
                assert await renewed(kube, namespace, count) == now, "nobody follows before it answers"
                await kubelet.make_ready(newest)
                done = now
            for name in NAMES:
                await until_condition(kube, namespace, name, "Progressing", "False", "Complete")
