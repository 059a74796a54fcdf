"""A gateway listening on loopback, with fake pods behind it."""

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
import uvloop
from ams_gateway.app import Gateway
from ams_gateway.auth.door import Door
from ams_gateway.front.log import RequestLog
from ams_gateway.server import listen
from ams_gateway.settings import GatewaySettings
from ams_gateway.usage import undelivered
from test_gateway.gateway_fakes import Behaviour, FakePod, FakeRegistry, say_hello


@dataclass
class Running:
    """A gateway under test, its registry, and a client. `log` has the lines as they were written."""

    registry: FakeRegistry
    gateway: Gateway
    url: str
    port: int
    client: aiohttp.ClientSession
    log: list[dict[str, Any]] = field(default_factory=list)

    async def post(self, path: str, value: Any, **options: Any) -> tuple[int, Any, Mapping[str, str]]:
        """(status, JSON body, headers) of a POST."""
        data = value if isinstance(value, bytes) else msgspec.json.encode(value)
        headers = {"Content-Type": "application/json"} | options.pop("headers", {})
        async with self.client.post(self.url + path, data=io.BytesIO(data), headers=headers, **options) as response:
            return response.status, await response.json(), response.headers

    async def metrics(self) -> str:
        async with self.client.get(self.url + "/metrics") as response:
            return await response.text()


Start = Callable[..., Awaitable[Running]]


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop that the gateway runs on in production."""
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    """Starts gateways over a registry with the given settings.

    They don't ask pods what no gateway heard, as tests count what pods get.
    """
    monkeypatch.setattr(undelivered, "_SOON_SECONDS", 3600.0)
    async with AsyncExitStack() as stack:

        async def start_gateway(registry: FakeRegistry, *, door: Door | None = None, **settings: Any) -> Running:
            lines: list[dict[str, Any]] = []

            def write(data: bytes) -> None:
                lines.extend(msgspec.json.decode(line) for line in data.splitlines())

            values = {"host": "127.0.0.1", "port": 0, "grace_seconds": 1.0} | settings
            gateway = Gateway(registry, GatewaySettings(**values), request_log=RequestLog(write, "json"), door=door)
            client = await stack.enter_async_context(aiohttp.ClientSession())
            listening = await stack.enter_async_context(listen(gateway))
            return Running(registry, gateway, listening.url, listening.port, client, lines)

        yield start_gateway


@pytest_asyncio.fixture
async def pod() -> AsyncIterator[Callable[..., Awaitable[FakePod]]]:
    """Starts fake pods."""
    pods: list[FakePod] = []

    async def start_pod(behaviour: Behaviour = say_hello) -> FakePod:
        started = await FakePod(behaviour).start()
        pods.append(started)
        return started

    yield start_pod
    for started in pods:
        await started.stop()


@pytest.fixture(autouse=True)
def no_tracebacks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that clients or pods do may end in a logged error."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelname == "ERROR"] == []


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()
