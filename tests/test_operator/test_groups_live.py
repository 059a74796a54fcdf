"""Models over several nodes on a real API server: LeaderWorkerSets that it takes, and a cluster without them.

Nobody makes the pods of such a set here: the test does, as the set's controller would.
"""

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import leader_worker_sets as lws
import pytest
from ams_cli.why_cluster import read_account
from ams_common import labels
from ams_common.memory_offers import MemoryOffers
from ams_common.resource.rules import SPANNING_NAME_LENGTH
from ams_common.source import parse_source
from ams_kube.client import Client
from ams_kube.errors import Invalid
from ams_kube.objects import ENDPOINT_SLICES, NODES, EndpointSlice
from ams_kube.views import RESOURCES
from ams_operator.decide.children.deployment import Strategy
from ams_operator.decide.desired import desired
from ams_operator.decide.engine import engine_of
from kube_cluster import NAMESPACES, ControlPlane, _apply_definition, bring_up, make_namespace
from models import (
    DEPLOYMENTS,
    DOWNLOADED,
    MODELS,
    PODS,
    container,
    create,
    model,
    report,
    until,
    until_children,
    until_condition,
)
from operator_process import OperatorProcess, operating
from plan_objects import SETTINGS, resource

RUNNING = {"startedAt": "2026-01-01T00:00:00Z"}
CONDITIONS = [{"type": kind, "status": "True"} for kind in ("PodScheduled", "Initialized", "Ready")]
NODE = "groups"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
SERVES = [container(name, ready=True, running=RUNNING) for name in ("serve", "engine")]
BIG: dict[str, Any] = {
    "source": "hf://acme/giant",
    "engine": {"name": "vllm", "image": "vllm:1", "nodes": 2},
    "resources": {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}},
    "cache": {"size": "1Gi", "accessMode": "ReadWriteMany"},
}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    """One of its own: sets are of the whole cluster, and other tests are without them."""
    with bring_up() as plane:
        asyncio.run(_apply_definition(plane))
        yield plane


@pytest.fixture
async def cluster(plane: ControlPlane) -> AsyncIterator[Client]:
    async with await Client.connect("tests", kubeconfig=str(plane.kubeconfig)) as client:
        yield client


@pytest.fixture
async def home(cluster: Client) -> AsyncIterator[str]:
    """A namespace whose pods have to meet the `restricted` standard."""
    name = await make_namespace(cluster, **RESTRICTED)
    yield name
    await cluster.delete(NAMESPACES, None, name)


@pytest.fixture
async def operator(plane: ControlPlane, home: str, tmp_path: Path) -> AsyncIterator[OperatorProcess]:
    async with AsyncExitStack() as stack:
        yield stack.enter_context(operating(plane, tmp_path / "log", home))


async def the_set(cluster: Client, home: str, holds: Any = lambda given: True) -> Any:
    found = await until(cluster, lws.SETS, home, lambda sets: "ams-big" in sets and holds(sets["ams-big"]))
    return found["ams-big"]


async def merge(cluster: Client, home: str, spec: dict[str, Any]) -> None:
    await cluster.merge(MODELS, home, "big", {"spec": spec})


async def ready(cluster: Client, pod: Any, address: str, *names: str) -> None:
    """A node has it, and its containers answer."""
    namespace, name = pod.metadata.namespace, pod.metadata.name
    binding = {"metadata": {"name": name}, "target": {"kind": "Node", "name": NODE}}
    await cluster.request("POST", PODS.path(namespace, name, "binding"), body=binding)
    serves = [container(name, ready=True, running=RUNNING) for name in names]
    said = {"initContainerStatuses": [DOWNLOADED], "containerStatuses": serves, "podIP": address}
    addresses = {"podIPs": [{"ip": address}]}
    await report(cluster, pod, conditions=CONDITIONS, phase="Running", **said, **addresses)


async def test_a_cluster_without_sets_gets_them_and_loses_them(
    cluster: Client, home: str, operator: OperatorProcess
) -> None:
    await create(cluster, home, "big", model(**BIG))
    await create(cluster, home, "small", model())
    await until_children(cluster, home, "small")
    told = await until_condition(cluster, home, "big", "Accepted", "False", "LeaderWorkerSetUnavailable", "Install it")
    assert told.status is not None
    assert told.status.summary == "LeaderWorkerSetUnavailable"
    await until_condition(cluster, home, "big", "Ready", "False", "LeaderWorkerSetUnavailable")
    await lws.install(cluster)
    await the_set(cluster, home)
    await until_condition(cluster, home, "big", "Accepted", "True", "Valid")
    await lws.remove(cluster)
    await until_condition(cluster, home, "big", "Accepted", "False", "LeaderWorkerSetUnavailable")
    assert operator.metrics_say_it_leads()
    assert "Traceback" not in operator.text()
    for name in ("big", "small"):
        await cluster.delete(MODELS, home, name)


async def test_a_model_over_two_nodes_from_start_to_end(cluster: Client, home: str, operator: OperatorProcess) -> None:
    await lws.install(cluster)
    made = await create(cluster, home, "big", model(**BIG))
    given = await the_set(cluster, home)
    assert [owner["uid"] for owner in given.metadata.owner_references] == [made.metadata.uid]
    leader, [worker] = await lws.make_group(cluster, given)

    # the leader waits for a node that nobody finds
    await lws.say(cluster, given, replicas=1, updatedReplicas=1, readyReplicas=0)
    loading = [container(name, running=RUNNING) for name in ("serve", "engine")]
    await report(cluster, leader, phase="Running", initContainerStatuses=[DOWNLOADED], containerStatuses=loading)
    await until_condition(
        cluster,
        home,
        "big",
        "Available",
        "False",
        "Unschedulable",
        f"Pod {worker.metadata.name}: No node takes the pod",
    )

    account = await read_account(cluster, await cluster.get(RESOURCES, home, "big"))
    assert any(each.startswith("Pod ams-big-0-1: FailedScheduling: ") for each in account.events), account.events

    await cluster.create(NODES, None, {"metadata": {"name": NODE}})
    # both are there, and the leader alone is asked
    await ready(cluster, worker, "10.1.0.2", "engine")
    await until_condition(cluster, home, "big", "Available", "False", "Starting")
    await ready(cluster, leader, "10.1.0.1", "serve", "engine")
    await lws.say(cluster, given, replicas=1, updatedReplicas=1, readyReplicas=1)
    told = await until_condition(cluster, home, "big", "Progressing", "False", "Complete")
    assert told.status is not None
    assert (told.status.replicas, told.status.ready_replicas) == (1, 1)
    await until_condition(cluster, home, "big", "Ready", "True", "Ready")
    addresses = await until(cluster, ENDPOINT_SLICES, home, lambda slices: bool(_addresses(slices)))
    assert _addresses(addresses) == ["10.1.0.1"]

    # nothing is written again and again
    before = (await the_set(cluster, home)).metadata.resource_version
    writes = operator.writes()
    await asyncio.sleep(3)
    assert (await the_set(cluster, home)).metadata.resource_version == before
    assert operator.writes() == writes

    # more replicas, by the resource's own scale
    scale = f"{MODELS.path(home, 'big')}/scale"
    await cluster.request("PATCH", scale, body={"spec": {"replicas": 3}}, content_type="application/merge-patch+json")
    await the_set(cluster, home, lambda each: each.spec["replicas"] == 3)
    await until_condition(cluster, home, "big", "Progressing", "True", "Scaling", "1 of 3 pods are available")

    # what somebody changed is put right, and what somebody deleted is made anew
    await cluster.merge(lws.SETS, home, "ams-big", {"spec": {"replicas": 7}})
    await the_set(cluster, home, lambda each: each.spec["replicas"] == 3)
    await cluster.delete(lws.SETS, home, "ams-big")
    await the_set(cluster, home, lambda each: each.metadata.uid != given.metadata.uid)

    # another version, on three nodes
    await merge(cluster, home, {"engine": {"nodes": 3, "image": "vllm:2"}})
    newer = await the_set(cluster, home, lambda each: each.spec["leaderWorkerTemplate"]["size"] == 3)
    for name in ("leaderTemplate", "workerTemplate"):
        images = {
            each["name"]: each["image"] for each in newer.spec["leaderWorkerTemplate"][name]["spec"]["containers"]
        }
        assert images["engine"] == "vllm:2"

    # on one node it is a Deployment, and no set
    await merge(cluster, home, {"engine": {"nodes": 1}})
    await until_children(cluster, home, "big", (DEPLOYMENTS,))
    await until(cluster, lws.SETS, home, lambda sets: "ams-big" not in sets)
    await merge(cluster, home, {"engine": {"nodes": 2}})
    await the_set(cluster, home)
    await until(cluster, DEPLOYMENTS, home, lambda deployments: "ams-big" not in deployments)

    # and its end is that of the set
    await cluster.delete(MODELS, home, "big")
    await until(cluster, lws.SETS, home, lambda sets: "ams-big" not in sets)
    assert "Traceback" not in operator.text()


async def test_running_groups_keep_their_template_until_their_turn(
    cluster: Client, plane: ControlPlane, home: str, tmp_path: Path
) -> None:
    """An upgrade without turns, and more replicas meanwhile: those are of the version that runs."""
    await lws.install(cluster)
    with operating(plane, tmp_path / "log", home):
        await create(cluster, home, "big", model(**BIG))
        given = await the_set(cluster, home)
        leader, _ = await lws.make_group(cluster, given)
        await report(cluster, leader, phase="Running", initContainerStatuses=[DOWNLOADED], containerStatuses=SERVES)
        await lws.say(cluster, given, replicas=1, updatedReplicas=1, readyReplicas=1)
        await until_condition(cluster, home, "big", "Progressing", "False", "Complete")
    upgraded = {"pod_image": "ams-pod:next", "max_concurrent_updates": 0}
    with operating(plane, tmp_path / "log", home, **upgraded) as newer:
        await until_condition(cluster, home, "big", "Progressing", "False", "Outdated", "an older version")
        await merge(cluster, home, {"replicas": 2})
        more = await the_set(cluster, home, lambda each: each.spec["replicas"] == 2)
        assert more.spec["leaderWorkerTemplate"] == given.spec["leaderWorkerTemplate"]
        assert "Traceback" not in newer.text()
    await cluster.delete(MODELS, home, "big")


async def test_the_longest_name_is_one_that_pods_can_have(
    cluster: Client, home: str, operator: OperatorProcess
) -> None:
    await lws.install(cluster)
    name = "a" * SPANNING_NAME_LENGTH
    await create(cluster, home, name, model(**BIG))
    found = await until(cluster, lws.SETS, home, lambda sets: f"ams-{name}" in sets)
    await lws.make_group(cluster, found[f"ams-{name}"], group=999)
    with pytest.raises(Invalid, match="at most 44 characters"):
        await create(cluster, home, f"{name}a", model(**BIG))
    await cluster.delete(MODELS, home, name)


async def test_a_set_of_somebody_elses_is_left_alone(cluster: Client, home: str, operator: OperatorProcess) -> None:
    await lws.install(cluster)
    pod = {"spec": {"containers": [{"name": "own", "image": "own:1"}]}}
    theirs = {"metadata": {"name": "ams-big"}, "spec": {"leaderWorkerTemplate": {"workerTemplate": pod}}}
    before = await cluster.create(lws.SETS, home, theirs)
    await create(cluster, home, "big", model(**BIG))
    words = "The LeaderWorkerSet ams-big was not made by this resource and is left alone"
    await until_condition(cluster, home, "big", "Accepted", "False", "NameTaken", words)
    await cluster.delete(MODELS, home, "big")
    after = await cluster.get(lws.SETS, home, "ams-big")
    assert after.metadata.resource_version == before.metadata.resource_version


def _addresses(slices: dict[str, EndpointSlice]) -> list[str]:
    """Those of the model's Service."""
    own = [each for each in slices.values() if each.metadata.labels.get(labels.SERVICE_NAME) == "ams-big"]
    return [address for each in own for endpoint in each.endpoints or () for address in endpoint.addresses]


@pytest.mark.parametrize(
    ("spec", "prefetch"),
    [
        ({}, False),
        ({"rollout": {"strategy": "Surge"}}, False),
        ({"engine": {"name": "sglang", "image": "sglang:1", "nodes": 4}}, False),
        ({"cache": {"perReplica": True}}, False),
        ({"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}], "podLabels": {"team": "x"}}, False),
        ({}, True),
    ],
)
async def test_the_api_server_takes_every_field_of_it(
    cluster: Client, home: str, spec: dict[str, Any], prefetch: bool
) -> None:
    await lws.install(cluster)
    given = resource(**{**BIG, **spec})
    source = parse_source(given.spec.model.source)
    engine = engine_of(given, source, None, MemoryOffers(), SETTINGS)
    strategy: Strategy = "Surge" if "rollout" in spec else "Recreate"
    volume: dict[str, Any] = {"volume_size": 1 << 30, "weights": None, "lock": None}
    children = desired(
        given, source, SETTINGS, replicas=2, strategy=strategy, prefetch=prefetch, engine=engine, **volume
    )
    made = children["LeaderWorkerSet"]
    made["metadata"]["namespace"] = home
    await _strictly(cluster, home, made)
    wrong = copy.deepcopy(made)
    wrong["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]["containers"][0]["imagePolicy"] = "Never"
    with pytest.raises(Invalid, match="imagePolicy"):
        await _strictly(cluster, home, wrong)


async def _strictly(cluster: Client, home: str, body: dict[str, Any]) -> None:
    query = {"fieldManager": "tests", "fieldValidation": "Strict", "dryRun": "All"}
    path = lws.SETS.path(home)
    await cluster.request("POST", path, query, body=body)
