"""An image of a new version is pulled before the running pod ends, where that has to end first."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from ams_kube.client import Client
from ams_kube.errors import NotFound
from ams_kube.objects import Pod, PodStatus
from ams_operator.decide.observed import Decision, Observed
from ams_operator.decide.plan import plan
from kube_cluster import ControlPlane
from models import (
    DEPLOYMENTS,
    DOWNLOADED,
    MODELS,
    PODS,
    container,
    create,
    model,
    pod_of,
    report,
    until,
    until_condition,
)
from operator_process import OperatorProcess
from plan_objects import NOW, SETTINGS, as_applied, resource

NEW = "ams-pod:2"
SHARED = {"cache": {"size": "1Gi", "accessMode": "ReadWriteMany"}}


def serving() -> Pod:
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "download", "ready": True, "state": {"terminated": {"exitCode": 0}}}],
            "containerStatuses": [{"name": "serve", "ready": True, "state": {"running": {}}}],
        },
    }
    return msgspec.convert(document, Pod)


def observed(pods: tuple[Pod, ...] = (), pull: Any = None, **spec: Any) -> Observed:
    """Of a model whose image was just changed to NEW."""
    before = {each["kind"]: as_applied(each) for each in plan(Observed(resource(**spec)), SETTINGS, NOW).apply}
    given = resource(image=NEW, **spec)
    return Observed(given, before, pods or (serving(),), pull=pull)


def made(decided: Decision, **status: Any) -> Pod:
    assert decided.pull is not None
    metadata = {**decided.pull["metadata"], "uid": "pull"}
    body = {**decided.pull, "metadata": metadata, "status": {"containerStatuses": [{"name": "pull", **status}]}}
    return msgspec.convert(body, Pod)


def applied(decided: Decision) -> list[str]:
    return [each["kind"] for each in decided.apply]


def progressing(decided: Decision) -> tuple[str, str, str]:
    found = next(each for each in decided.status.conditions or () if each.type == "Progressing")
    return found.status, found.reason, found.message


def test_the_deployment_waits_for_the_image_and_follows_when_it_is_there() -> None:
    first = plan(observed(), SETTINGS, NOW)
    assert "Deployment" not in applied(first)
    assert first.remove == ()
    assert first.pull is not None
    assert first.pull["metadata"]["name"] == "ams-tiny-pull"
    assert (first.pull["spec"]["nodeName"], first.pull["spec"]["containers"][0]["image"]) == ("n", NEW)
    assert "aimodelserver.io/model" not in first.pull["metadata"]["labels"], "no Service sends requests to it"
    assert progressing(first)[:2] == ("True", "RollingOut")
    creating = made(first, state={"waiting": {"reason": "ContainerCreating"}})
    for pull in (creating, msgspec.structs.replace(creating, status=PodStatus())):
        assert "Deployment" not in applied(plan(observed(pull=pull), SETTINGS, NOW))
    for state in (
        {"terminated": {"exitCode": 0}},
        {"terminated": {"exitCode": 128, "reason": "StartError"}},
        {"running": {}},
        {"waiting": {"reason": "CreateContainerError"}},
    ):
        assert "Deployment" in applied(plan(observed(pull=made(first, state=state)), SETTINGS, NOW)), state


def test_an_image_that_cant_be_pulled_ends_nothing_and_is_told() -> None:
    first = plan(observed(), SETTINGS, NOW)
    for reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName"):
        failing = made(first, image=NEW, state={"waiting": {"reason": reason, "message": "no such host"}})
        decided = plan(observed(pull=failing), SETTINGS, NOW)
        assert "Deployment" not in applied(decided)
        assert progressing(decided) == (
            "False",
            "Stalled",
            f"The rollout can't go on, and 1 pod serves on: The image {NEW} can't be pulled: {reason}: no such host",
        )
        ready = next(each for each in decided.status.conditions or () if each.type == "Ready")
        assert (ready.status, ready.reason) == ("True", "Ready")
        assert ("Warning", "Stalled") in [(each.type, each.reason) for each in decided.transitions]


def test_where_nothing_would_be_lost_no_image_is_tried() -> None:
    waiting = msgspec.convert({"metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"}}, Pod)
    cases = {
        "two pods at once": observed(**SHARED),
        "nothing serves": observed((waiting,)),
        "to be suspended": observed(suspend=True),
        "no such pod may be made": replace(observed(), pull_refused=NEW),
    }
    for name, given in cases.items():
        decided = plan(given, SETTINGS, NOW)
        assert decided.pull is None, name
        assert "Deployment" in applied(decided), name


def test_the_pod_goes_when_it_isnt_needed_any_more() -> None:
    first = plan(observed(), SETTINGS, NOW)
    pull = made(first, state={"terminated": {"exitCode": 0}})
    there = {each["kind"]: as_applied(each) for each in plan(Observed(resource(image=NEW)), SETTINGS, NOW).apply}
    decided = plan(Observed(resource(image=NEW), there, (serving(),), pull=pull), SETTINGS, NOW)
    assert decided.end_pull
    assert decided.pull is None
    other = plan(Observed(resource(image="ams-pod:3"), there, (serving(),), pull=pull), SETTINGS, NOW)
    assert (other.end_pull, other.pull, "Deployment" in applied(other)) == (True, None, False)


async def test_a_typo_in_the_image_ends_no_pod(
    control_plane: ControlPlane, kube: Client, home: str, operator: OperatorProcess
) -> None:
    """On an API server without nodes: the kubelet's words are reported here."""
    if control_plane.folder is None:
        pytest.skip("the kubelet of a real cluster has its own words")
    await create(kube, home, "typo", model())
    pod = await pod_of(kube, home, "typo")
    await kube.request(
        "POST",
        f"{PODS.path(home, pod.metadata.name)}/binding",
        body={"metadata": {"name": pod.metadata.name}, "target": {"kind": "Node", "name": "somewhere"}},
    )
    serve = container("serve", ready=True, running={"startedAt": "2026-01-01T00:00:00Z"})
    await report(kube, pod, initContainerStatuses=[DOWNLOADED], containerStatuses=[serve])
    await until_condition(kube, home, "typo", "Ready", "True", "Ready")
    await kube.merge(MODELS, home, "typo", {"spec": {"image": "ams-pod:typo"}})
    pods = await until(kube, PODS, home, lambda objects: "ams-typo-pull" in objects)
    refused = {"reason": "ErrImagePull", "message": "not found"}
    await report(kube, pods["ams-typo-pull"], containerStatuses=[container("pull", waiting=refused)])
    await until_condition(kube, home, "typo", "Progressing", "False", "Stalled", "can't be pulled: ErrImagePull")
    template: Any = (await kube.get(DEPLOYMENTS, home, "ams-typo")).spec["template"]
    assert template["spec"]["containers"][0]["image"] == "ams-pod:test"
    assert (await kube.get(PODS, home, pod.metadata.name)).metadata.deletion_timestamp is None
    await kube.merge(MODELS, home, "typo", {"spec": {"image": None}})
    await until_condition(kube, home, "typo", "Progressing", "True", "Scaling")
    await until(kube, PODS, home, lambda objects: "ams-typo-pull" not in objects)
    with pytest.raises(NotFound):
        await kube.get(PODS, home, "ams-typo-pull")
