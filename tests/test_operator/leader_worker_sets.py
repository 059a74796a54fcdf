"""LeaderWorkerSet for tests: its definition, and what its controller makes of one, as upstream's does."""

import asyncio
import json
from pathlib import Path
from typing import Any

from ams_common import labels
from ams_kube.client import Client
from ams_kube.errors import NotFound
from ams_kube.kinds import Kind
from kube_cluster import DEFINITIONS, Anything
from models import PODS, until

SETS = Kind("leaderworkerset.x-k8s.io/v1", "LeaderWorkerSet", "leaderworkersets", Anything)
STATEFUL_SETS = Kind("apps/v1", "StatefulSet", "statefulsets", Anything)
NAME = "leaderworkersets.leaderworkerset.x-k8s.io"
_PREFIX = "leaderworkerset.sigs.k8s.io"


def definition() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    given = json.loads((Path(__file__).parent / "lws" / "definition.json").read_text(encoding="utf-8"))
    made: dict[str, Any] = given["definition"]
    spec = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    template = spec["properties"]["leaderWorkerTemplate"]["properties"]
    template["leaderTemplate"] = template["workerTemplate"] = given["podTemplate"]
    return made


async def install(kube: Client) -> None:
    await kube.apply(DEFINITIONS, None, NAME, definition(), manager="tests")
    async with asyncio.timeout(30):
        while True:
            try:
                await kube.list(SETS)
                return
            except NotFound:
                await asyncio.sleep(0.1)


async def remove(kube: Client) -> None:
    await kube.delete(DEFINITIONS, None, NAME)


async def make_group(kube: Client, given: Any, group: int = 0) -> tuple[Any, list[Any]]:
    """A group of a set, as its controller makes it: the leader, and the workers, whose set it owns.

    The pods are Kubernetes' own StatefulSets'.
    """
    name, namespace, template = given.metadata.name, given.metadata.namespace, given.spec["leaderWorkerTemplate"]
    of_set = {labels.SET_NAME: name}
    of_leaders = {**of_set, f"{_PREFIX}/worker-index": "0"}
    owner = _owner(given, "LeaderWorkerSet", SETS)
    await _stateful_set(kube, namespace, name, owner, of_set, of_leaders, template["leaderTemplate"], group, 1)
    [leader] = await _pods(kube, namespace, of_leaders, 1)
    of_group = {**of_set, f"{_PREFIX}/group-index": str(group), f"{_PREFIX}/group-key": "one"}
    owner, workers = _owner(leader, "Pod", PODS), template["size"] - 1
    await _stateful_set(
        kube, namespace, f"{name}-{group}", owner, of_group, of_group, template["workerTemplate"], 1, workers
    )
    return leader, await _pods(kube, namespace, of_group, workers)


async def say(kube: Client, given: Any, **status: Any) -> None:
    """What the controller writes into the set's status."""
    body = {"status": {"observedGeneration": given.metadata.generation, **status}}
    await kube.merge(SETS, given.metadata.namespace, given.metadata.name, body, "status")


def _owner(given: Any, kind: str, of: Kind[Any]) -> dict[str, Any]:
    metadata = given.metadata
    reference = {"apiVersion": of.api_version, "kind": kind, "name": metadata.name, "uid": metadata.uid}
    return {**reference, "controller": True, "blockOwnerDeletion": True}


async def _stateful_set(
    kube: Client,
    namespace: str,
    name: str,
    owner: dict[str, Any],
    own_labels: dict[str, str],
    pod_labels: dict[str, str],
    template: dict[str, Any],
    start: int,
    replicas: int,
) -> None:
    """`start` is the rank of its first pod. Variables come first, so that commands may refer to them."""
    told = {"LWS_LEADER_ADDRESS": "leader.example", "LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(start)}
    variables = [{"name": variable, "value": value} for variable, value in told.items()]
    pod = dict(template["spec"])
    for kind in ("initContainers", "containers"):
        pod[kind] = [{**each, "env": [*variables, *each.get("env", [])]} for each in pod[kind]]
    metadata = {**template["metadata"], "labels": {**template["metadata"]["labels"], **pod_labels}}
    spec = {
        "replicas": replicas,
        "serviceName": name,
        "podManagementPolicy": "Parallel",
        "ordinals": {"start": start},
        "selector": {"matchLabels": pod_labels},
        "template": {"metadata": metadata, "spec": pod},
    }
    body = {"metadata": {"name": name, "labels": own_labels, "ownerReferences": [owner]}, "spec": spec}
    await kube.create(STATEFUL_SETS, namespace, body)


async def _pods(kube: Client, namespace: str, selector: dict[str, str], count: int) -> list[Any]:
    text = ",".join(f"{name}={value}" for name, value in selector.items())
    found = await until(kube, PODS, namespace, lambda pods: len(pods) == count, labels=text)
    return [found[name] for name in sorted(found)]
