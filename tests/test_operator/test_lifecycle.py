"""What becomes of a ModelDeployment from apply to delete, on a real API server."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from ams_kube.client import Client
from ams_kube.errors import NotFound
from ams_kube.kinds import Kind
from kube_cluster import NAMESPACES as _NAMESPACES
from models import (
    ACCOUNTS,
    CHILDREN,
    CLAIMS,
    DEPLOYMENTS,
    DOWNLOADED,
    EVENTS,
    LOCK,
    MODELS,
    PODS,
    SERVICES,
    container,
    create,
    model,
    pod_of,
    report,
    until,
    until_children,
    until_condition,
)
from operator_process import OperatorProcess


async def gone(kube: Client, kind: Any, namespace: str, name: str) -> None:
    await until(kube, kind, namespace, lambda objects: name not in objects)


async def test_the_children_are_the_resources_own(kube: Client, home: str, operator: OperatorProcess) -> None:
    resource = await create(kube, home, "family", model())
    await until_children(kube, home, "family")
    for kind in CHILDREN:
        child = await kube.get(kind, home, "ams-family")
        assert [(owner["uid"], owner["controller"]) for owner in child.metadata.owner_references] == [
            (resource.metadata.uid, True)
        ]
        assert child.metadata.labels["aimodelserver.io/model"] == "family"
    await kube.delete(MODELS, home, "family")
    for kind in CHILDREN:
        await gone(kube, kind, home, "ams-family")


async def test_a_deleted_child_comes_back(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "phoenix", model())
    await until_children(kube, home, "phoenix")
    for kind in (DEPLOYMENTS, SERVICES, ACCOUNTS):
        before = (await kube.get(kind, home, "ams-phoenix")).metadata.uid
        await kube.delete(kind, home, "ams-phoenix")
        await until(
            kube,
            kind,
            home,
            lambda objects, uid=before: "ams-phoenix" in objects and objects["ams-phoenix"].metadata.uid != uid,  # type: ignore[misc]
        )


async def test_what_concerns_the_pod_rolls_and_nothing_else_does(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    await create(kube, home, "roll", model())
    await until_children(kube, home, "roll")
    template = (await kube.get(DEPLOYMENTS, home, "ams-roll")).spec["template"]
    changes = {
        "metadata": {"labels": {"team": "search"}},
        "spec": {"cache": {"retain": "Retain"}, "autoscaling": {"minReplicas": 1}},
    }
    await kube.merge(MODELS, home, "roll", changes)
    await until(kube, CLAIMS, home, lambda objects: not objects["ams-roll"].metadata.owner_references)
    assert (await kube.get(DEPLOYMENTS, home, "ams-roll")).spec["template"] == template
    await kube.merge(MODELS, home, "roll", {"spec": {"limits": {"maxNewTokens": 7}}})
    await until(kube, DEPLOYMENTS, home, lambda objects: objects["ams-roll"].spec["template"] != template)


DRIFT: dict[str, tuple[Kind[Any], dict[str, Any], Callable[[Any], object]]] = {
    "replicas": (DEPLOYMENTS, {"spec": {"replicas": 5}}, lambda child: child.spec["replicas"]),
    "image": (
        DEPLOYMENTS,
        {"spec": {"template": {"spec": {"containers": [{"name": "serve", "image": "evil:2"}]}}}},
        lambda child: child.spec["template"]["spec"]["containers"][0]["image"],
    ),
    "label": (
        DEPLOYMENTS,
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": None}}},
        lambda child: child.metadata.labels,
    ),
    "selector": (
        SERVICES,
        {"spec": {"selector": {"aimodelserver.io/model": "nobody"}}},
        lambda child: child.spec["selector"],
    ),
    "port": (SERVICES, {"spec": {"ports": [{"port": 8080, "targetPort": 1}]}}, lambda child: child.spec["ports"]),
    "account": (
        ACCOUNTS,
        {"metadata": {"labels": {"aimodelserver.io/model": "other"}}},
        lambda child: child.metadata.labels,
    ),
    "claim": (
        CLAIMS,
        {"metadata": {"annotations": {"aimodelserver.io/applied": None}}},
        lambda child: child.metadata.annotations.keys(),
    ),
}


@pytest.mark.parametrize("new_leader", [False, True], ids=["same-leader", "new-leader"])
@pytest.mark.parametrize("name", DRIFT)
async def test_a_strangers_edit_is_undone(
    kube: Client, home: str, operator: OperatorProcess, name: str, new_leader: bool
) -> None:
    """Also by an operator that didn't apply the object itself."""
    kind, patch, seen = DRIFT[name]
    model_name = f"edited-{name}-{new_leader:d}"
    await create(kube, home, model_name, model())
    await until_children(kube, home, model_name)
    child = f"ams-{model_name}"
    right = seen(await kube.get(kind, home, child))
    if new_leader:
        operator.stop()
    await kube.request(
        "PATCH", kind.path(home, child), body=patch, content_type="application/strategic-merge-patch+json"
    )
    if new_leader:
        assert seen(await kube.get(kind, home, child)) != right
        operator.start()
    await until(kube, kind, home, lambda objects: child in objects and seen(objects[child]) == right)


async def test_what_others_add_is_left_alone_and_nothing_is_applied_for_it(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    spec = model(
        env=[{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        tolerations=[{"operator": "Exists"}],
        imagePullSecrets=[{"name": "x"}],
        resources={"limits": {"memory": "0.5Gi", "cpu": "1.0"}},
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        podLabels={"team": "x"},
    )  # fmt: skip
    await create(kube, home, "shared", spec)
    await until_children(kube, home, "shared")
    await kube.merge(SERVICES, home, "ams-shared", {"metadata": {"labels": {"theirs": "yes"}}})
    sidecar = {"spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "theirs:1"}]}}}}
    await kube.request(
        "PATCH",
        DEPLOYMENTS.path(home, "ams-shared"),
        body=sidecar,
        content_type="application/strategic-merge-patch+json",
    )
    operator.stop()
    operator.start()
    operator.until_leading()
    before = operator.metrics().get('ams_operator_writes_total{kind="Deployment"}', 0.0)
    await create(kube, home, "shared-sign", model(suspend=True))
    await until_condition(kube, home, "shared-sign", "Ready", "False", "Suspended")
    template: Any = (await kube.get(DEPLOYMENTS, home, "ams-shared")).spec["template"]
    assert {each["name"] for each in template["spec"]["containers"]} == {"serve", "sidecar"}
    assert (await kube.get(SERVICES, home, "ams-shared")).metadata.labels["theirs"] == "yes"
    after = operator.metrics().get('ams_operator_writes_total{kind="Deployment"}', 0.0)
    assert after - before <= 1, "the sign's own"


async def test_suspend_and_resume(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "sleepy", model(suspend=True))
    await until_condition(kube, home, "sleepy", "Available", "False", "Suspended")
    resource = await until_condition(kube, home, "sleepy", "Ready", "False", "Suspended")
    assert resource.status is not None
    assert resource.status.summary == "Suspended"
    assert (await kube.get(DEPLOYMENTS, home, "ams-sleepy")).spec["replicas"] == 0
    await kube.merge(MODELS, home, "sleepy", {"spec": {"suspend": False}})
    await until(kube, DEPLOYMENTS, home, lambda objects: objects["ams-sleepy"].spec["replicas"] == 1)


async def test_a_model_at_zero_is_ready_without_pods(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "zero", model(autoscaling={"minReplicas": 0}))
    resource = await until_condition(kube, home, "zero", "Ready", "True", "ScaledToZero")
    assert resource.status is not None
    assert (resource.status.phase, resource.status.summary) == ("Idle", "Scaled to zero")
    await until_condition(kube, home, "zero", "Available", "False", "ScaledToZero")
    assert (await kube.get(DEPLOYMENTS, home, "ams-zero")).spec["replicas"] == 0


async def test_weights_are_fetched_ahead_without_a_gpu_and_noted_on_the_volume(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    spec = model(
        cache={"size": "1Gi", "prefetch": True},
        autoscaling={"minReplicas": 0},
        resources={"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}},
    )
    await create(kube, home, "ahead", spec)
    pod = await pod_of(kube, home, "ahead")
    containers: Any = [*pod.spec["initContainers"], *pod.spec["containers"]]  # type: ignore[misc]
    assert all("nvidia.com/gpu" not in each["resources"].get("limits", {}) for each in containers)
    await report(
        kube,
        pod,
        initContainerStatuses=[DOWNLOADED],
        containerStatuses=[container("serve", running={"startedAt": "2026-01-01T00:00:00Z"})],
    )
    await until(kube, DEPLOYMENTS, home, lambda objects: objects["ams-ahead"].spec["replicas"] == 0)
    await until_condition(kube, home, "ahead", "WeightsReady", "True", "Verified")
    resource = await until_condition(kube, home, "ahead", "Ready", "True", "ScaledToZero")
    assert msgspec.to_builtins(resource.status)["lock"] == LOCK
    template: Any = (await kube.get(DEPLOYMENTS, home, "ams-ahead")).spec["template"]
    assert template["spec"]["containers"][0]["command"] == ["ams-pod", "serve"]
    # Without a cluster's collector of deleted pods the pod stays; the volume is what counts.
    assert "aimodelserver.io/weights" in (await kube.get(CLAIMS, home, "ams-ahead")).metadata.annotations


async def test_a_users_objects_of_that_name_are_never_touched(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    claim = {"metadata": {"name": "ams-mine"}, "spec": _claim("5Gi")}
    before = await kube.create(CLAIMS, home, claim)
    service = {"metadata": {"name": "ams-yours"}, "spec": {"ports": [{"port": 80}]}}
    before_service = await kube.create(SERVICES, home, service)
    for name in ("mine", "yours"):
        await create(kube, home, name, model())
        found = await until_condition(kube, home, name, "Accepted", "False", "NameTaken", f"ams-{name} was not made by")
        assert found.status is not None
        assert found.status.summary == "NameTaken"
        with_nothing = await kube.list(DEPLOYMENTS, home, fields=f"metadata.name=ams-{name}")
        assert with_nothing == []
    await kube.delete(MODELS, home, "mine")
    await gone(kube, MODELS, home, "mine")
    after = await kube.get(CLAIMS, home, "ams-mine")
    assert (after.metadata.uid, after.spec, after.metadata.labels) == (before.metadata.uid, before.spec, {})
    assert (await kube.get(SERVICES, home, "ams-yours")).metadata.resource_version == (
        before_service.metadata.resource_version
    )


def _claim(size: str) -> dict[str, Any]:
    return {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}}


async def test_a_retained_volume_outlives_its_resource_and_is_taken_up_again(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    body = model(cache={"size": "1Gi", "retain": "Retain"})
    await create(kube, home, "keeper", body)
    await until_children(kube, home, "keeper")
    volume = await kube.get(CLAIMS, home, "ams-keeper")
    assert volume.metadata.owner_references == []
    await kube.delete(MODELS, home, "keeper")
    await gone(kube, DEPLOYMENTS, home, "ams-keeper")
    assert (await kube.get(CLAIMS, home, "ams-keeper")).metadata.uid == volume.metadata.uid
    await create(kube, home, "keeper", body)
    await until_children(kube, home, "keeper")
    await until_condition(kube, home, "keeper", "Accepted", "True", "Valid")
    assert (await kube.get(CLAIMS, home, "ams-keeper")).metadata.uid == volume.metadata.uid


async def test_one_made_anew_under_the_same_name_gets_children_of_its_own(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    first = await create(kube, home, "twice", model())
    await until_children(kube, home, "twice")
    await kube.delete(MODELS, home, "twice")
    second = await create(kube, home, "twice", model())
    assert first.metadata.uid != second.metadata.uid
    for kind in CHILDREN:
        await until(
            kube,
            kind,
            home,
            lambda objects: (
                "ams-twice" in objects
                and objects["ams-twice"].metadata.owner_references[0]["uid"] == second.metadata.uid
            ),
        )
    await until_condition(kube, home, "twice", "Accepted", "True", "Valid")


async def test_transitions_are_told_as_events(kube: Client, home: str, operator: OperatorProcess) -> None:
    await create(kube, home, "story", model())
    pod = await pod_of(kube, home, "story")
    refused = {"reason": "ImagePullBackOff", "message": "no such image"}
    await report(kube, pod, initContainerStatuses=[container("download", waiting=refused)])
    await until_condition(kube, home, "story", "Available", "False", "ImagePullFailed")
    running = {"startedAt": "2026-01-01T00:00:00Z"}
    await report(
        kube,
        pod,
        initContainerStatuses=[DOWNLOADED],
        containerStatuses=[container("serve", ready=True, running=running)],
    )
    await until_condition(kube, home, "story", "Ready", "True", "Ready")

    def told(objects: dict[str, Any]) -> bool:
        return {name.partition(".")[0] for name in objects} >= {"story"} and len(
            [name for name in objects if name.startswith("story.")]
        ) >= 3

    events = await until(kube, EVENTS, home, told)
    assert events


async def test_an_idle_operator_writes_nothing_and_a_new_one_neither(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    await create(kube, home, "calm", model(autoscaling={"minReplicas": 0}))
    await until_condition(kube, home, "calm", "Ready", "True", "ScaledToZero")
    await until(kube, DEPLOYMENTS, home, lambda objects: objects["ams-calm"].status.get("observedGeneration") == 1)
    resource = await until_condition(kube, home, "calm", "Progressing", "False", "Complete")
    before = [_version(await kube.get(kind, home, "ams-calm")) for kind in CHILDREN]
    assert operator.stop() == 0
    operator.start()
    operator.until_leading()
    # A change that is its own sign that the operator has looked at everything since.
    await create(kube, home, "sign", model(autoscaling={"minReplicas": 0}))
    await until_condition(kube, home, "sign", "Ready", "True", "ScaledToZero")
    assert [_version(await kube.get(kind, home, "ams-calm")) for kind in CHILDREN] == before
    assert (await kube.get(MODELS, home, "calm")).metadata.resource_version == resource.metadata.resource_version


def _version(child: Any) -> Any:
    """What changes with each write, but not with what the cluster's controllers say of the object."""
    return child.metadata.generation or child.metadata.resource_version


async def test_no_secret_is_written_or_logged(kube: Client, home: str, operator: OperatorProcess) -> None:
    secret = "hf_verySecretToken123"
    await kube.request(
        "POST",
        f"/api/v1/namespaces/{home}/secrets",
        body={"metadata": {"name": "hub"}, "stringData": {"token": secret}},
    )
    await create(kube, home, "private", model(model={"tokenSecretRef": {"name": "hub"}}))
    await until_children(kube, home, "private")
    pod: Any = await pod_of(kube, home, "private")
    env = {each["name"]: each for each in pod.spec["initContainers"][0]["env"]}
    assert env["HF_TOKEN"] == {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    assert "HF_TOKEN" not in {each["name"] for each in pod.spec["containers"][0]["env"]}
    for kind in (*CHILDREN, MODELS, PODS, EVENTS):
        assert secret.encode() not in await kube.request("GET", kind.path(home))
    assert secret not in operator.text()


async def test_the_pod_is_restricted(kube: Client, home: str, operator: OperatorProcess) -> None:
    """The API server itself says so, in a namespace that enforces it."""
    await kube.merge(
        _NAMESPACES, None, home, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}
    )
    await create(kube, home, "strict", model())
    assert (await pod_of(kube, home, "strict")).metadata.name.startswith("ams-strict-")


async def test_a_missing_child_is_no_error_for_a_resource_that_is_gone(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    await create(kube, home, "brief", model())
    await kube.delete(MODELS, home, "brief")
    await create(kube, home, "after-brief", model())  # when this has its children, nothing is made for the other
    await until_children(kube, home, "after-brief")
    await asyncio.gather(*(_absent(kube, kind, home, "ams-brief") for kind in CHILDREN))


async def _absent(kube: Client, kind: Any, namespace: str, name: str) -> None:
    await gone(kube, kind, namespace, name)
    try:
        await kube.get(kind, namespace, name)
    except NotFound:
        return
    raise AssertionError(f"{kind.plural}/{name} is there")
