"""Kills, cut connections, an API server that goes away, two operators: what is asked for is what comes to be."""

import asyncio
import contextlib
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_kube.client import Client
from ams_kube.errors import NotFound
from ams_kube.kinds import Kind
from kube_cluster import Anything, ControlPlane
from models import ACCOUNTS, CHILDREN, DEPLOYMENTS, MODELS, PODS, SERVICES, create, model, until, until_children
from operator_process import OperatorProcess, kept_running, operating

LEASE_NAME = "ams-operator"
KILLS = int(os.environ.get("AMS_TEST_KILLS", "10"))
SHORT = {"lease_seconds": 10, "renew_seconds": 6}


class LeaseSpec(msgspec.Struct, rename="camel"):
    holder_identity: str | None = None
    lease_transitions: int = 0


class Lease(msgspec.Struct):
    metadata: Any
    spec: LeaseSpec


POD = {"containers": [{"name": "c", "image": "none"}], "nodeSelector": {"ams-test/node": "none"}}
OWNED_LEASES: Kind[Any] = Kind("coordination.k8s.io/v1", "Lease", "leases", Anything)
LEASES: Kind[Any] = Kind("coordination.k8s.io/v1", "Lease", "leases", Lease)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def holder(kube: Client, namespace: str) -> str | None:
    lease = await kube.get(LEASES, namespace, LEASE_NAME)
    found: str | None = lease.spec.holder_identity
    return found


async def test_sigterm_releases_the_lease_and_the_next_one_leads_at_once(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    first = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, identity="a"))
    second = OperatorProcess(control_plane, tmp_path / "b", namespace, identity="b")
    stack.callback(second.kill)
    second.start()
    await asyncio.to_thread(second.until_logged, "the cluster is known")
    assert await holder(kube, namespace) == "a"
    assert " leads" not in second.text()
    assert await asyncio.to_thread(first.stop) == 0
    await asyncio.to_thread(second.until_leading)
    assert await holder(kube, namespace) == "b"
    await create(kube, namespace, "after", model())
    await until_children(kube, namespace, "after")


async def test_a_leader_that_was_killed_leads_again_under_its_name_and_another_waits(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    first = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, identity="a", **SHORT))
    first.kill()
    other = OperatorProcess(control_plane, tmp_path / "b", namespace, identity="b", **SHORT)
    stack.callback(other.kill)
    other.start()
    await asyncio.to_thread(other.until_logged, "the cluster is known")
    assert " leads" not in other.text(), "the Lease has not run out"
    first.start()
    await asyncio.to_thread(first.until_leading)
    assert await holder(kube, namespace) == "a"


async def test_an_outage_loses_no_deletion_and_ends_the_leader(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    """What is deleted while nobody watches: a child comes back, a resource is forgotten."""
    if control_plane.folder is None:
        pytest.skip("this cluster's API server isn't ours to stop")
    names = ("stays", "loses-a-child", "leaves")
    leader = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, identity="a", **SHORT))
    waiting = OperatorProcess(control_plane, tmp_path / "b", namespace, identity="b", **SHORT)
    stack.callback(waiting.kill)
    waiting.start()
    for name in names:
        await create(kube, namespace, name, model())
    for name in names:
        await until_children(kube, namespace, name)
    await asyncio.to_thread(waiting.until_logged, "the cluster is known")

    control_plane.kill_api_server()
    try:
        status = await asyncio.to_thread(leader.wait, 60)
    finally:
        control_plane.start_api_server()
    assert status == 1, "a leader that can't renew its Lease ends"
    assert "could not be renewed for 6 s" in leader.text()
    await control_plane.answers(kube)
    before = (await kube.get(SERVICES, namespace, "ams-loses-a-child")).metadata.uid
    await kube.delete(SERVICES, namespace, "ams-loses-a-child")
    await kube.delete(MODELS, namespace, "leaves")

    def is_back(objects: dict[str, Any]) -> bool:
        found = objects.get("ams-loses-a-child")
        return found is not None and found.metadata.uid != before

    async with kept_running(leader), kept_running(waiting):
        await until(kube, SERVICES, namespace, is_back)
        for kind in CHILDREN:
            await until(kube, kind, namespace, lambda objects: "ams-leaves" not in objects)
        await create(kube, namespace, "later", model())
        await until_children(kube, namespace, "later")
        assert await holder(kube, namespace) in ("a", "b")
    leads = [process for process in (leader, waiting) if process.running() and process.metrics_say_it_leads()]
    assert len(leads) <= 1
    assert "ams-leaves" not in {each.metadata.name for each in await kube.list(DEPLOYMENTS, namespace)}


async def test_one_that_does_not_lead_survives_an_outage_and_keeps_its_view_true(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    """kopf reports no deletion after a re-list: lists are compared."""
    if control_plane.folder is None:
        pytest.skip("this cluster's API server isn't ours to stop")
    leader = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, identity="a", **SHORT))
    waiting = OperatorProcess(control_plane, tmp_path / "b", namespace, identity="b", **SHORT)
    stack.callback(waiting.kill)
    waiting.start()
    await create(kube, namespace, "kept", model())
    await create(kube, namespace, "lost", model())
    for name in ("kept", "lost"):
        await until_children(kube, namespace, name)
    await asyncio.to_thread(waiting.until_logged, "the cluster is known")
    leader.kill()
    control_plane.kill_api_server()
    control_plane.start_api_server()
    await control_plane.answers(kube)
    await kube.delete(MODELS, namespace, "lost")
    await asyncio.to_thread(waiting.until_leading)
    await until(kube, DEPLOYMENTS, namespace, lambda objects: "ams-lost" not in objects)
    uid = (await kube.get(SERVICES, namespace, "ams-kept")).metadata.uid
    await kube.delete(SERVICES, namespace, "ams-kept")
    await until(
        kube,
        SERVICES,
        namespace,
        lambda objects: "ams-kept" in objects and objects["ams-kept"].metadata.uid != uid,
    )
    assert "ams-lost" not in {each.metadata.name for each in await kube.list(DEPLOYMENTS, namespace)}
    assert waiting.running()


@pytest.mark.timeout(600)
async def test_killed_at_random_it_ends_at_what_is_asked_for(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    """A create-change-delete run of 30 resources under kills: no orphan, no duplicate, no stale object."""
    dice = random.Random(7)
    operator = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, identity="a"))
    done = asyncio.Event()

    async def users() -> None:
        for number in range(30):
            await create(kube, namespace, f"m{number}", model())
            await asyncio.sleep(dice.random() / 10)
        for number in range(30):
            await kube.merge(MODELS, namespace, f"m{number}", {"spec": {"limits": {"maxNewTokens": 100 + number}}})
            await asyncio.sleep(dice.random() / 10)
        for number in range(0, 30, 3):
            await kube.delete(MODELS, namespace, f"m{number}")
            await asyncio.sleep(dice.random() / 10)
        done.set()

    working = asyncio.create_task(users())
    for _ in range(KILLS):
        await asyncio.sleep(dice.random())
        operator.kill()
        operator.start()
    await working
    await asyncio.to_thread(operator.until_leading)
    kept = {f"ams-m{number}" for number in range(30) if number % 3}
    for kind in CHILDREN:
        await until(kube, kind, namespace, lambda objects: {each for each in objects if "ams-" in each} == kept)

    def edited(objects: dict[str, Any]) -> bool:
        return all(f'"{100 + int(name[5:])}"' in _text(objects[name].spec) for name in kept)

    await until(kube, DEPLOYMENTS, namespace, edited)
    uids = {each.metadata.name: each.metadata.uid for each in await kube.list(MODELS, namespace)}
    for kind in CHILDREN:
        for child in await kube.list(kind, namespace, labels="aimodelserver.io/model"):
            assert child.metadata.owner_references[0]["uid"] == uids[child.metadata.name.removeprefix("ams-")]


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


async def test_the_lease_belongs_to_the_pod_that_leads_and_is_made_anew_where_it_was_deleted(
    control_plane: ControlPlane, kube: Client, namespace: str, stack: ExitStack, tmp_path: Path
) -> None:
    """The cluster collects it with the last operator, as after an uninstall."""
    await until(kube, ACCOUNTS, namespace, lambda objects: "default" in objects)
    pod = await kube.create(PODS, namespace, {"metadata": {"name": "a"}, "spec": POD})
    given = SHORT | {"identity": "a", "pod_uid": pod.metadata.uid}
    leader = stack.enter_context(operating(control_plane, tmp_path / "a", namespace, **given))
    lease = await kube.get(OWNED_LEASES, namespace, LEASE_NAME)
    assert [owner["uid"] for owner in lease.metadata.owner_references] == [pod.metadata.uid]
    await kube.delete(LEASES, namespace, LEASE_NAME)
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(NotFound):
                if await holder(kube, namespace) == "a":
                    break
            await asyncio.sleep(0.1)
    assert leader.running()
    await create(kube, namespace, "led", model())
    await until_children(kube, namespace, "led")
    leader.stop()
    await kube.delete(PODS, namespace, "a")
    await until(kube, OWNED_LEASES, namespace, lambda objects: LEASE_NAME not in objects)
