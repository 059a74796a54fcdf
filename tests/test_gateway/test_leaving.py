"""A client that leaves ends the pod's work at once, whatever the request is doing."""

import asyncio
import socket

import pytest
from ams_gateway.app import Gateway
from ams_gateway.front.log import RequestLog
from ams_gateway.server import listen
from ams_gateway.settings import GatewaySettings
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, post, raw_connection, read_raw_answer


class Watched:
    """A pod that waits, after a first event if it streams, and notes that the gateway hung up."""

    def __init__(self, *, streams: bool) -> None:
        self.streams = streams
        self.started = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        if self.streams:
            await exchange.start_stream()
            await exchange.chunk(b"data: 1\n\n")
        self.started.set()
        await exchange.until_client_is_gone()
        self.gone.set()


async def _leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "closes":
        writer.close()
    elif how == "half-closes":
        writer.write_eof()
    else:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        writer.transport.abort()


async def _accounted(running: Running) -> None:
    while 'ams_gateway_requests_in_flight{model="m"} 0.0' not in await running.metrics():
        pass


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_the_pod_is_told_at_once(start: Start, pod, registry: FakeRegistry, how: str, streams: bool) -> None:
    watched = Watched(streams=streams)
    backend = await pod(watched)
    entry = registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b'{"prompt":"x"}'))
        await watched.started.wait()
        if streams:
            await reader.readuntil(b"data: 1\n\n")
        await _leave(writer, how)
        await watched.gone.wait()
    await _accounted(running)
    assert entry.backends[0].in_flight == 0
    assert 'code="499",model="m"' in await running.metrics()


async def test_a_client_that_leaves_while_it_uploads(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", b'"' + b"x" * (2 << 20), "Content-Length: 10000000"))
        while not running.gateway.body_room.in_files:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    while running.gateway.body_room.in_files:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    await _accounted(running)
    assert backend.connections == 0
    assert 'code="499",model="m"' in await running.metrics()


async def test_a_slow_client_does_not_fill_memory(start: Start, pod, registry: FakeRegistry) -> None:
    """The pod feels that the client doesn't read: its writes stop going through."""
    sent = 0
    stuck = asyncio.Event()

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.start_stream()
        event = b"data: " + b"x" * 65536 + b"\n\n"
        while sent < 200 << 20:
            try:
                async with asyncio.timeout(0.5):
                    await exchange.chunk(event)
            except TimeoutError:
                stuck.set()
                return
            sent += len(event)

    backend = await pod(flood)
    registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", b"{}"))
        await stuck.wait()
    assert sent < 50 << 20


async def test_stopping_lets_running_requests_finish(start: Start, pod, registry: FakeRegistry) -> None:
    release = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await release.wait()
        await exchange.json(200, {"response": "late"})

    backend = await pod(wait)
    registry.add("m", backend.address)
    gateway = Gateway(registry, GatewaySettings(host="127.0.0.1", port=0), request_log=RequestLog(lambda lines: None))
    async with listen(gateway) as listening:
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.port)
        writer.write(post("/generate/m", b"{}"))
        await backend.got_request.wait()
        asyncio.get_running_loop().call_later(0.05, release.set)
    assert (await read_raw_answer(reader)).body == b'{"response": "late"}'
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", listening.port)
