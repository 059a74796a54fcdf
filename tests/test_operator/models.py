"""ModelDeployments of tests, what becomes of them, and a stand-in for the kubelet."""

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import Condition
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_kube.reflector import Reflector
from kube_cluster import Anything

MODELS = Kind("aimodelserver.io/v1alpha1", "ModelDeployment", "modeldeployments", ModelDeployment)
DEPLOYMENTS = Kind("apps/v1", "Deployment", "deployments", Anything)
SERVICES = Kind("v1", "Service", "services", Anything)
ACCOUNTS = Kind("v1", "ServiceAccount", "serviceaccounts", Anything)
CLAIMS = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", Anything)
PODS = Kind("v1", "Pod", "pods", Anything)
EVENTS = Kind("v1", "Event", "events", Anything)
CHILDREN = (DEPLOYMENTS, SERVICES, ACCOUNTS, CLAIMS)

WHEEL = "wheel://weights==1.0/weights/model.gguf"
NOWHERE = {"ams-test/node": "none"}  # no node takes the pod, on any cluster
_SECONDS = 75.0  # the cluster learns of a new kind every 30 s, and collects its children after that


def model(source: str = WHEEL, **spec: Any) -> dict[str, Any]:
    given = {"cache": {"size": "1Gi"}, "nodeSelector": NOWHERE, **spec}
    return {"spec": {"model": {"source": source, **given.pop("model", {})}, **given}}


async def create(kube: Client, namespace: str, name: str, body: dict[str, Any]) -> ModelDeployment:
    return await kube.create(MODELS, namespace, {"metadata": {"name": name}, **body})


async def until(
    kube: Client, kind: Kind[Any], namespace: str, holds: Callable[[dict[str, Any]], bool], *, labels: str = ""
) -> dict[str, Any]:
    """Wait until the objects of a kind, by name, are as wanted; gives them."""
    objects: dict[str, Any] = {}
    changed = asyncio.Event()

    def take(given: Any) -> None:
        objects[given.metadata.name] = given
        changed.set()

    def forget(key: str) -> None:
        objects.pop(key.partition("/")[2], None)
        changed.set()

    reflector = Reflector(kube, kind, take, forget, namespace=namespace, labels=labels)
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(_SECONDS):
            await reflector.synced.wait()
            while not holds(objects):
                changed.clear()
                await changed.wait()
        return objects
    except TimeoutError:
        shown = {name: getattr(each, "status", None) for name, each in objects.items()}
        raise AssertionError(f"{kind.plural} stayed as they are: {msgspec.json.encode(shown).decode()}") from None
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def condition(resource: ModelDeployment, kind: str) -> Condition | None:
    conditions = (resource.status.conditions or []) if resource.status is not None else []
    return next((each for each in conditions if each.type == kind), None)


async def until_condition(
    kube: Client, namespace: str, name: str, kind: str, status: str, reason: str, words: str = ""
) -> ModelDeployment:
    def holds(objects: dict[str, Any]) -> bool:
        found = condition(objects[name], kind) if name in objects else None
        return found is not None and (found.status, found.reason) == (status, reason) and words in found.message

    found = await until(kube, MODELS, namespace, holds)
    resource: ModelDeployment = found[name]
    return resource


async def until_children(kube: Client, namespace: str, name: str, kinds: tuple[Kind[Any], ...] = CHILDREN) -> None:
    for kind in kinds:
        await until(kube, kind, namespace, lambda objects: f"ams-{name}" in objects)


async def pod_of(kube: Client, namespace: str, name: str) -> Anything:
    """The model's pod, as the controllers made it."""
    pods = await until(
        kube,
        PODS,
        namespace,
        lambda objects: any(pod.metadata.deletion_timestamp is None for pod in objects.values()),
        labels=f"aimodelserver.io/model={name}",
    )
    pod: Anything = next(pod for pod in pods.values() if pod.metadata.deletion_timestamp is None)
    return pod


async def report(kube: Client, pod: Anything, **status: Any) -> None:
    """What the kubelet says of the pod."""
    scheduled = {"type": "PodScheduled", "status": "True"}
    body = {"status": {"conditions": [scheduled], **status}}
    await kube.request(
        "PATCH",
        PODS.path(pod.metadata.namespace, pod.metadata.name, "status"),
        body=body,
        content_type="application/strategic-merge-patch+json",
    )


def container(name: str, *, ready: bool = False, restarts: int = 0, last: Any = None, **state: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": "ams-pod:test",
        "imageID": "",
        "ready": ready,
        "restartCount": restarts,
        "state": state,
        "lastState": {"terminated": last} if last is not None else {},
    }


def ended(message: str = "", code: int = 1, reason: str = "Error") -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, "message": message}


LOCK = {"files": 3, "sha256": "ab" * 32}
DOWNLOADED = container("download", ready=True, terminated=ended(json.dumps({"lock": LOCK}), code=0, reason="Completed"))
BACK_OFF = {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}
