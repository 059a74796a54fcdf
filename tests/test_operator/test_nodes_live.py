"""The memory of GPUs as the nodes' labels give it: what fits no card isn't made, and is made once a card fits it."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_kube.client import Client
from ams_kube.kinds import Kind
from ams_operator.watch.nodes import NodeWatch
from fakehub.repository import File, Repository, Zeros
from fakehub.server import FakeHub
from hub_listings import CONFIG
from kube_cluster import Anything, ControlPlane
from models import CLAIMS, DEPLOYMENTS, SERVICES, create, model, until_children, until_condition
from operator_process import OperatorProcess, operating

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # of the fake hub

GIBI = 1 << 30
NODES: Kind[Any] = Kind("v1", "Node", "nodes", Anything)
ACCOUNTS: Kind[Any] = Kind("v1", "ServiceAccount", "serviceaccounts", Anything)
LARGE = {**CONFIG, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}
SEVENTY_BILLION = Zeros(141_000_000_000)


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(File, "sha256", "0" * 64)  # of gigabytes of zeros that nobody reads
        files = {"config.json": json.dumps(LARGE).encode(), "model.safetensors": SEVENTY_BILLION}
        hub.add(Repository("acme/large")).commit(files)
        yield hub


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, home: str, hub: FakeHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("operator") / "log"
    with operating(control_plane, log, home, hub_endpoint=hub.url, preflight_seconds=5) as process:
        yield process


@asynccontextmanager
async def node_with_gpu(kube: Client, pool: str, mebibytes: int) -> AsyncIterator[str]:
    name = f"node-{pool}"
    labels = {"ams-test/pool": pool, "nvidia.com/gpu.memory": str(mebibytes)}
    await kube.create(NODES, None, {"metadata": {"name": name, "labels": labels}})
    has = {"nvidia.com/gpu": "1", "memory": "64Gi", "pods": "10", "cpu": "8"}
    await kube.merge(NODES, None, name, {"status": {"allocatable": has, "capacity": has}}, subresource="status")
    try:
        yield name
    finally:
        await kube.delete(NODES, None, name)


def large(pool: str) -> dict[str, Any]:
    limits = {"nvidia.com/gpu": 1, "memory": "32Gi"}
    spec: dict[str, Any] = {"cache": {"size": "auto"}, "nodeSelector": {"ams-test/pool": pool}}
    return model("hf://acme/large", resources={"limits": limits}, tolerations=[{"operator": "Exists"}], **spec)


async def test_what_fits_no_card_is_made_once_there_is_one_that_it_fits(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    async with node_with_gpu(kube, "cards", 24576) as node:
        await create(kube, home, "large", large("cards"))
        resource = await until_condition(
            kube, home, "large", "PreflightPassed", "False", "DoesNotFitMemory", "24.0 GiB"
        )
        assert resource.status is not None
        assert resource.status.phase == "Failed"
        for kind in (DEPLOYMENTS, CLAIMS, SERVICES):
            assert await kube.list(kind, home, fields="metadata.name=ams-large") == []
        await kube.merge(NODES, None, node, {"metadata": {"labels": {"nvidia.com/gpu.memory": "61440"}}})
        resource = await until_condition(kube, home, "large", "PreflightPassed", "True", "Passed")
        await until_children(kube, home, "large")
        assert resource.status is not None
        assert resource.status.quantization is not None
        assert resource.status.quantization.chosen == "4bit"


async def test_where_no_node_tells_it_the_condition_says_what_to_set(
    kube: Client, home: str, operator: OperatorProcess
) -> None:
    await create(kube, home, "unknown", large("none"))
    words = "Memory wasn't checked: no node that the model may run on has the memory of nvidia.com/gpu known."
    await until_condition(kube, home, "unknown", "PreflightPassed", "True", "Passed", words)


async def test_an_operator_that_may_not_list_nodes_goes_on_without(
    control_plane: ControlPlane, kube: Client, home: str, tmp_path: Path
) -> None:
    if control_plane.folder is None:
        pytest.skip("somebody else's cluster")
    await kube.create(ACCOUNTS, home, {"metadata": {"name": "nobody"}})
    request = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {}}
    answer = await kube.request("POST", ACCOUNTS.path(home, "nobody", "token"), body=request)
    async with await Client.connect("tests", kubeconfig=str(as_user(control_plane, answer, tmp_path))) as client:
        watch = NodeWatch(client, lambda: None)
        async with running(watch):
            assert watch.nodes is None
    async with running(NodeWatch(kube, lambda: None)) as watch:
        assert watch.nodes is not None


@asynccontextmanager
async def running(watch: NodeWatch) -> AsyncIterator[NodeWatch]:
    task = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(30):
            await watch.known.wait()
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def as_user(control_plane: ControlPlane, token_request: bytes, folder: Path) -> Path:
    """A kubeconfig for the same API server, with the token instead of the administrator's certificate."""
    config = yaml.safe_load(control_plane.kubeconfig.read_text())
    token = json.loads(token_request)["status"]["token"]
    config["users"] = [{"name": user["name"], "user": {"token": token}} for user in config["users"]]
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
