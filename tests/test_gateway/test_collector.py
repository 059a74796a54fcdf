"""Requests leave no reference cycles, so that a gateway needs no collections: each is a pause of every request."""

import asyncio
import gc
from collections.abc import Awaitable, Callable

import pytest
from ams_gateway.collector import collecting_rarely
from cycles import left_to_the_collector
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, post, raw_connection

REQUESTS = 20


async def test_nothing_is_collected_while_it_serves() -> None:
    try:
        async with collecting_rarely():
            assert not gc.isenabled()
            assert gc.get_freeze_count() > 10_000
        assert gc.isenabled()
    finally:
        gc.unfreeze()


async def answered(running: Running) -> None:
    assert (await running.post("/generate/m", {"prompt": "x"}))[0] == 200


async def not_json(running: Running) -> None:
    assert (await running.post("/v1/chat/completions", b"{"))[0] == 400


async def no_such_model(running: Running) -> None:
    assert (await running.post("/v1/chat/completions", {"model": "other", "messages": []}))[0] == 404


async def no_such_path(running: Running) -> None:
    assert (await running.post("/nothing", {}))[0] == 404


async def not_http(running: Running) -> None:
    async with raw_connection(running.port) as (reader, writer):
        writer.write(b"GARBAGE\r\n\r\n")
        assert b" 400 " in await reader.read()


async def left(running: Running) -> None:
    """The client leaves a stream, and its next event finds nobody."""
    async with running.client.post(running.url + "/generate/m", json={"prompt": "stream", "stream": True}) as response:
        assert await response.content.readany()
        response.close()


async def left_in_the_body(running: Running) -> None:
    """In the middle of what it sends."""
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", b"{}").replace(b"Content-Length: 2", b"Content-Length: 99"))
        await asyncio.sleep(0.01)


async def left_while_the_rest_is_read(running: Running) -> None:
    """After an answer that came before all of the body, which is still read so that the client gets it."""
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/nothing", b"{}").replace(b"Content-Length: 2", b"Content-Length: 99"))
        assert b" 404 " in await reader.readline()


async def left_waiting(running: Running) -> None:
    """Before there is an answer."""
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", b'{"prompt": "slow"}'))
        await asyncio.sleep(0.01)


ASKING = [
    answered,
    not_json,
    no_such_model,
    no_such_path,
    not_http,
    left,
    left_in_the_body,
    left_while_the_rest_is_read,
    left_waiting,
]


@pytest.mark.parametrize("ask", ASKING)
async def test_requests_leave_no_cycles(
    ask: Callable[[Running], Awaitable[None]], start: Start, pod, registry: FakeRegistry
) -> None:
    async def answer(exchange: Exchange) -> None:
        if b"slow" in exchange.request.body:
            await exchange.until_client_is_gone()
            return
        if b"stream" not in exchange.request.body:
            await exchange.json(200, {"text": "y"})
            return
        await exchange.start_stream()
        for _ in range(50):
            await exchange.chunk(b"data: 1\n\n")
            await asyncio.sleep(0.002)

    registry.add("m", (await pod(answer)).address)
    running = await start(registry)
    await ask(running)
    await asyncio.sleep(0.3)
    with left_to_the_collector("ams_", "aiohttp.web") as found:
        for _ in range(REQUESTS):
            await ask(running)
        await asyncio.sleep(0.3)
    assert len(found) < REQUESTS, found[:5]
