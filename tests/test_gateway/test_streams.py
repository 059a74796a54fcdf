"""Events on their way from pod to client: written as they come, and never faster than the client reads."""

import asyncio
import hashlib

from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, post, raw_connection


async def test_a_client_that_pauses_gets_every_byte_in_order(start: Start, pod, registry: FakeRegistry) -> None:
    """Far more than all buffers hold, while nobody reads: the pod waits, and nothing is lost or doubled."""
    events = [b"data: %06d %b\n\n" % (number, b"x" * (number % 5000)) for number in range(8000)]
    sent = 0

    async def stream(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.start_stream()
        for event in events:
            await exchange.chunk(event)
            sent += 1
        await exchange.chunk(b": usage prompt=3 completion=8000\n\n")
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}) as response:
        before = -1
        while sent != before:
            before = sent
            await asyncio.sleep(0.3)
        assert 0 < sent < len(events), "the pod felt nothing of a client that doesn't read"
        body = await response.read()
    assert hashlib.sha256(body).digest() == hashlib.sha256(b"".join(events)).digest()
    assert 'ams_gateway_tokens_total{model="m",token_type="output"} 8000.0' in await running.metrics()


async def test_a_client_of_http_1_0_gets_events_without_chunks(start: Start, pod, registry: FakeRegistry) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for number in range(3):
            await exchange.chunk(b"data: %d\n\n" % number)
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"200 OK" in head.splitlines()[0]
    assert b"chunked" not in head
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_the_connection_of_a_stream_is_kept_and_used_again(start: Start, pod, registry: FakeRegistry) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        await exchange.chunk(b"data: 2\n\n")
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    for _ in range(3):
        async with running.client.post(running.url + "/generate/m", json={}) as response:
            assert await response.read() == b"data: 1\n\ndata: 2\n\n"
    assert backend.connections == 1


async def test_a_pod_that_breaks_off_between_events_ends_the_stream_with_an_error(
    start: Start, pod, registry: FakeRegistry
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        await exchange.chunk(b"data: half")
        exchange.cut()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}) as response:
        body = await response.read()
    first, error, rest = body.split(b"\n\n")
    assert first == b"data: 1"
    assert b"backend_failed" in error
    assert b"half" not in body
    assert rest == b""


async def test_a_pod_whose_chunks_are_broken_ends_the_stream_with_an_error(
    start: Start, pod, registry: FakeRegistry
) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"data: 1\n\n")
        await asyncio.sleep(0.05)
        await exchange.send(b"no length\r\n")
        await exchange.until_client_is_gone()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    async with asyncio.timeout(5), running.client.post(running.url + "/generate/m", json={}) as response:
        body = await response.read()
    assert body.startswith(b"data: 1\n\n")
    assert b"backend_failed" in body
