"""A leader that hears nothing of the API server any more writes nothing after its Lease's deadline."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.status import Status
from ams_kube.client import Client
from ams_operator.act.election import Election, LeadershipLost, Terms
from ams_operator.act.writer import NotLeading, Writer
from ams_operator.decide.observed import Transition
from ams_operator.metrics import Metrics
from kubernetes.aio.client.configuration import Configuration

TERMS = Terms(duration=4, deadline=2)
RESOURCE = parse_model_deployment(
    {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {"model": {"source": "hf://acme/tiny"}},
    }
)
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "ams-tiny", "namespace": "models"},
    "spec": {"ports": [{"port": 80}]},
}


class SilentServer:
    """An API server that keeps a Lease and takes what is written, until it is told to fall silent."""

    def __init__(self) -> None:
        self.silent = False
        self.writes: list[str] = []  # paths of what came, answered or not, without Leases
        self.came = asyncio.Event()
        self._lease: dict[str, Any] | None = None
        self._never = asyncio.Event()

    async def answer(self, request: web.Request) -> web.Response:
        lease = request.path.startswith("/apis/coordination.k8s.io/")
        if request.method != "GET" and not lease:
            self.writes.append(request.path)
            self.came.set()
        if self.silent:
            await self._never.wait()
        body = await request.json() if request.can_read_body else {}
        if not lease:
            return web.json_response(body)
        if request.method == "GET" and self._lease is None:
            return web.json_response({"kind": "Status", "reason": "NotFound", "code": 404}, status=404)
        if request.method != "GET":
            self._lease = body | {"metadata": body["metadata"] | {"resourceVersion": "1", "uid": "l-1"}}
        return web.json_response(self._lease)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[tuple[SilentServer, Client]]:
    silent = SilentServer()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", silent.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{runner.addresses[0][1]}"
    configuration.retries = None
    async with Client(configuration, "test") as client:
        yield silent, client
    await runner.cleanup()


async def test_nothing_is_written_after_the_deadline(server: tuple[SilentServer, Client]) -> None:
    silent, client = server
    election = Election(client, "ams", "operator", "me", TERMS)
    writer = Writer(client, election, Metrics())
    with pytest.raises(NotLeading):
        await writer.apply(SERVICE, None)
    assert silent.writes == [], "not elected yet"

    elected = asyncio.Event()
    leading = asyncio.create_task(election.run(elected.set))
    await elected.wait()
    await writer.apply(SERVICE, None)
    assert len(silent.writes) == 1

    silent.silent = True
    silent.came.clear()
    writing = asyncio.create_task(writer.apply(SERVICE, None))
    await silent.came.wait()
    with pytest.raises(TimeoutError):  # what was on its way is cut at the deadline
        await writing
    with pytest.raises(LeadershipLost):
        await leading
    silent.silent = False  # the server is back, but somebody else may lead by now
    before = list(silent.writes)
    for write in (
        writer.apply(SERVICE, None),
        writer.status(RESOURCE, Status()),
        writer.event(RESOURCE, Transition("Normal", "Ready", "Ready: yes"), 0.0),
    ):
        with pytest.raises(NotLeading):
            await write
    assert silent.writes == before
