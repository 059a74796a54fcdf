"""Reasons that the cluster itself gives: its scheduler, its volumes, its API server's refusals."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ams_kube.client import Client
from ams_kube.errors import Conflict
from ams_kube.kinds import Kind
from kube_cluster import Anything, ControlPlane
from models import (
    CLAIMS,
    DEPLOYMENTS,
    MODELS,
    condition,
    create,
    model,
    until,
    until_children,
    until_condition,
)
from operator_process import OperatorProcess

NODES: Kind[Any] = Kind("v1", "Node", "nodes", Anything)
CLASSES: Kind[Any] = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", Anything)
VOLUMES: Kind[Any] = Kind("v1", "PersistentVolume", "persistentvolumes", Anything)

ANYWHERE = [{"operator": "Exists"}]


@pytest.fixture
async def late_class(kube: Client) -> AsyncIterator[str]:
    """A storage class whose volumes are made when a node is known, so that they hold up no scheduling."""
    name = f"late-{secrets.token_hex(4)}"
    body = {
        "metadata": {"name": name},
        "provisioner": "ams.test/none",
        "volumeBindingMode": "WaitForFirstConsumer",
    }
    await kube.create(CLASSES, None, body)
    yield name
    await kube.delete(CLASSES, None, name)


@pytest.fixture
async def node(control_plane: ControlPlane, kube: Client) -> AsyncIterator[None]:
    """A node with memory and no GPU; a real cluster has its own."""
    if control_plane.folder is None:
        yield
        return
    name = f"node-{secrets.token_hex(4)}"
    await kube.create(NODES, None, {"metadata": {"name": name, "labels": {"ams-test/node": "small"}}})
    capacity = {"cpu": "4", "memory": "4Gi", "pods": "10", "ephemeral-storage": "10Gi"}
    await kube.merge(NODES, None, name, {"status": {"capacity": capacity, "allocatable": capacity}}, "status")
    yield
    await kube.delete(NODES, None, name)


async def test_no_node_takes_it(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "nowhere", model())
    resource = await until_condition(
        kube, home, "nowhere", "Available", "False", "Unschedulable", "No node takes the pod: "
    )
    assert resource.status is not None
    assert (resource.status.phase, resource.status.summary) == ("Scheduling", "Unschedulable")


async def test_no_gpu_is_free(kube: Client, home: str, operator: OperatorProcess, node: None, late_class: str) -> None:
    spec = model(
        cache={"size": "1Gi", "storageClassName": late_class},
        nodeSelector={},
        tolerations=ANYWHERE,
        resources={"limits": {"nvidia.com/gpu": 1}},
    )
    await create(kube, home, "gpu", spec)
    await until_condition(
        kube, home, "gpu", "Available", "False", "InsufficientGPU", "No node has nvidia.com/gpu free: 0/1 nodes"
    )


async def test_the_volume_cant_be_had(kube: Client, home: str, operator: OperatorProcess, node: None) -> None:
    spec = model(cache={"size": "1Gi", "storageClassName": "no-such-class"}, nodeSelector={}, tolerations=ANYWHERE)
    await create(kube, home, "volume", spec)
    resource = await until_condition(kube, home, "volume", "WeightsReady", "False", "VolumePending")
    ready = condition(resource, "Ready")
    assert ready is not None
    assert (ready.status, ready.reason) == ("False", "VolumePending")


async def test_the_named_claim_is_missing(kube: Client, home: str, operator: OperatorProcess, node: None) -> None:
    await create(kube, home, "claim", model(cache={"claimName": "nobodys"}, nodeSelector={}, tolerations=ANYWHERE))
    await until_condition(
        kube, home, "claim", "WeightsReady", "False", "VolumePending", 'persistentvolumeclaim "nobodys" not found'
    )


async def test_the_volume_behind_the_claim_is_gone(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "lost", model(cache={"size": "1Gi", "storageClassName": "none"}))
    await until_children(kube, home, "lost")
    body = {
        "metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "it-was-here"},
    }
    await kube.merge(CLAIMS, home, "ams-lost", body)
    await until_condition(kube, home, "lost", "WeightsReady", "False", "VolumeLost", "ams-lost is gone")


async def test_a_volume_that_cant_grow(kube: Client, home: str, operator: OperatorProcess, late_class: str) -> None:
    volume = f"pv-{secrets.token_hex(4)}"
    body = {
        "metadata": {"name": volume},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": late_class,
            "claimRef": {"namespace": home, "name": "ams-grow"},
            "hostPath": {"path": "/nonexistent"},
        },
    }
    await kube.create(VOLUMES, None, body)
    try:
        await create(kube, home, "grow", model(cache={"size": "1Gi", "storageClassName": late_class}))
        await until(kube, CLAIMS, home, lambda objects: _bound(objects.get("ams-grow")))
        await kube.merge(MODELS, home, "grow", {"spec": {"cache": {"size": "2Gi"}}})
        await until_condition(
            kube, home, "grow", "WeightsReady", "False", "VolumeNotExpandable", "The volume can't grow: "
        )
        # What else was asked for is done all the same.
        await kube.merge(MODELS, home, "grow", {"spec": {"suspend": True}})
        await until(kube, DEPLOYMENTS, home, lambda objects: objects["ams-grow"].spec["replicas"] == 0)
    finally:
        with contextlib.suppress(Conflict):
            await kube.delete(VOLUMES, None, volume)


def _bound(claim: Any) -> bool:
    return claim is not None and claim.status.get("phase") == "Bound"


async def test_the_pod_is_refused(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "account", model(serviceAccountName="nobody"))
    await until_condition(
        kube, home, "account", "Available", "False", "Unschedulable", 'serviceaccount "nobody" not found'
    )


async def test_a_child_that_the_api_server_refuses(kube: Client, home: str, operator: OperatorProcess) -> None:
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}
    await create(kube, home, "refused", model(affinity=affinity))
    await until_condition(
        kube, home, "refused", "Accepted", "False", "Rejected", "The API server rejects the Deployment of this model"
    )
    await create(kube, home, "beside", model(autoscaling={"minReplicas": 0}))
    await until_condition(kube, home, "beside", "Ready", "True", "ScaledToZero")
    await kube.merge(MODELS, home, "refused", {"spec": {"affinity": None}})
    await until_condition(kube, home, "refused", "Accepted", "True", "Valid")
    await until_children(kube, home, "refused")


async def test_a_folder_of_one_machine_is_no_source_here(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "folder", model("file:///srv/models/x"))
    await until_condition(
        kube, home, "folder", "Accepted", "False", "InvalidSource", "file:/// names a folder of one machine"
    )
    assert await kube.list(DEPLOYMENTS, home, fields="metadata.name=ams-folder") == []
