"""From zero and back by what the gateways say; downloads as the pods tell them."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from ams_kube.client import Client
from ams_kube.kinds import Kind
from kube_cluster import Anything, ControlPlane
from models import (
    DEPLOYMENTS,
    container,
    create,
    model,
    pod_of,
    report,
    until,
    until_children,
    until_condition,
)
from operator_process import OperatorProcess, operating

SLICES: Kind[Any] = Kind("discovery.k8s.io/v1", "EndpointSlice", "endpointslices", Anything)
RUNNING = {"startedAt": "2026-01-01T00:00:00Z"}


class FakeGateway:
    """`GET /internal/demand` as gateways answer it: at once when a hold begins."""

    def __init__(self) -> None:
        self.models: dict[str, dict[str, float]] = {}
        self.version = 1
        self._told = asyncio.Event()
        self._asked: asyncio.Queue[None] = asyncio.Queue()

    async def was_asked(self, times: int) -> None:
        """That many times from now on."""
        while not self._asked.empty():
            self._asked.get_nowait()
        async with asyncio.timeout(60):
            for _ in range(times):
                await self._asked.get()

    def say(self, key: str, in_flight: int = 0, held: int = 0, idle_seconds: float = 0.0) -> None:
        self.models[key] = {"in_flight": in_flight, "held": held, "idle_seconds": idle_seconds}
        if held:
            self.version += 1
            self._told.set()
            self._told = asyncio.Event()

    async def demand(self, request: web.Request) -> web.Response:
        self._asked.put_nowait(None)
        if int(request.query["since"]) == self.version:
            try:
                async with asyncio.timeout(float(request.query["wait"])):
                    await self._told.wait()
            except TimeoutError:
                pass
        return web.Response(body=msgspec.json.encode({"version": self.version, "models": self.models}))


async def _serving(route: str, handler: Any, port: int = 0) -> tuple[web.AppRunner, int]:
    app = web.Application()
    app.router.add_get(route, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner, runner.addresses[0][1]


@pytest.fixture
async def gateway(kube: Client, home: str) -> AsyncIterator[FakeGateway]:
    gateway = FakeGateway()
    runner, port = await _serving("/internal/demand", gateway.demand)
    body = {
        "metadata": {"name": "gateway-1", "labels": {"kubernetes.io/service-name": "gateway"}},
        "addressType": "FQDN",  # as an IPv4 address the API server would refuse loopback
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "metrics", "port": port, "protocol": "TCP"}],
    }
    await kube.create(SLICES, home, body)
    yield gateway
    await kube.delete(SLICES, home, "gateway-1")
    await runner.cleanup()


@pytest.fixture(scope="module")
def progress_port() -> int:
    """Where pods tell their progress; the operator is told before a test listens there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def operator(
    control_plane: ControlPlane, home: str, progress_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    log = tmp_path_factory.mktemp("operator") / "log"
    settings = {
        "gateway_service": f"{home}/gateway",
        "gateway_url": "http://gw.ams.svc",
        "progress_port": progress_port,
    }
    with operating(control_plane, log, home, **settings) as process:
        yield process


async def until_replicas(kube: Client, home: str, name: str, replicas: int) -> None:
    await until(kube, DEPLOYMENTS, home, lambda objects: _replicas(objects.get(name)) == replicas)


def _replicas(deployment: Any) -> Any:
    return deployment.spec["replicas"] if deployment is not None else None


async def test_a_held_request_wakes_a_model_and_idleness_lets_it_sleep(
    kube: Client, home: str, operator: OperatorProcess, gateway: FakeGateway
) -> None:
    await create(kube, home, "sleeper", model(autoscaling={"minReplicas": 0, "idleSeconds": 30}))
    await create(kube, home, "other", model(autoscaling={"minReplicas": 0}))
    await until_condition(kube, home, "sleeper", "Ready", "True", "ScaledToZero")
    gateway.say(f"{home}/sleeper", held=1)
    await until_replicas(kube, home, "ams-sleeper", 1)
    await until_condition(kube, home, "sleeper", "Ready", "False", "Unschedulable")
    assert (await kube.get(DEPLOYMENTS, home, "ams-other")).spec["replicas"] == 0
    gateway.say(f"{home}/sleeper", in_flight=1)
    gateway.say(f"{home}/sleeper", idle_seconds=31)
    await until_replicas(kube, home, "ams-sleeper", 0)
    await until_condition(kube, home, "sleeper", "Ready", "True", "ScaledToZero")


async def test_a_model_is_not_stopped_under_a_request_or_because_a_gateway_is_silent(
    kube: Client, home: str, operator: OperatorProcess, gateway: FakeGateway
) -> None:
    await create(kube, home, "busy", model(autoscaling={"minReplicas": 0, "idleSeconds": 0}))
    await until_children(kube, home, "busy")
    gateway.say(f"{home}/busy", held=1)
    await until_replicas(kube, home, "ams-busy", 1)
    gateway.say(f"{home}/busy", in_flight=1)
    silent = {
        "metadata": {"name": "gateway-2", "labels": {"kubernetes.io/service-name": "gateway"}},
        "addressType": "FQDN",
        "endpoints": [{"addresses": ["127.0.0.1"]}],
        "ports": [{"name": "metrics", "port": 9, "protocol": "TCP"}],
    }
    await kube.create(SLICES, home, silent)
    await asyncio.to_thread(operator.until_logged, "does not report its demand")
    gateway.say(f"{home}/busy", idle_seconds=100)
    await gateway.was_asked(4)  # once more than it takes to decide by what was said
    assert (await kube.get(DEPLOYMENTS, home, "ams-busy")).spec["replicas"] == 1
    await kube.delete(SLICES, home, "gateway-2")
    await until_replicas(kube, home, "ams-busy", 0)


async def test_a_download_is_told_in_the_status(
    kube: Client, home: str, operator: OperatorProcess, progress_port: int
) -> None:
    said = {
        "phase": "downloading",
        "percent": 43.0,
        "download": {
            "bytesDone": 3139621094,
            "bytesTotal": 7301444403,
            "bytesPerSecond": 22020096.0,
            "etaSeconds": 190.0,
            "file": "model-00001-of-00002.safetensors",
        },
    }

    async def get(request: web.Request) -> web.Response:
        return web.json_response(said)

    runner, _ = await _serving("/progress", get, progress_port)
    try:
        await create(kube, home, "loads", model())
        pod = await pod_of(kube, home, "loads")
        await report(
            kube,
            pod,
            phase="Pending",
            podIP="127.0.0.1",
            podIPs=[{"ip": "127.0.0.1"}],
            initContainerStatuses=[container("download", running=RUNNING)],
        )
        found = await until_condition(kube, home, "loads", "WeightsReady", "False", "Downloading", "43 %")
        status = found.status
        assert status is not None
        assert (status.phase, status.summary) == ("Downloading", "Downloading 43 %")
        assert status.message == "43 %, 2.9 of 6.8 GiB at 21.0 MiB/s, ETA 3m10s"
        assert status.download is not None
        assert status.download.file == "model-00001-of-00002.safetensors"
        assert status.endpoint == "http://gw.ams.svc/generate/loads"
        assert operator.metrics()[f'ams_operator_download_bytes_total{{model="{home}/loads"}}'] == 3139621094
    finally:
        await runner.cleanup()
