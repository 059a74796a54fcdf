"""A client that leaves frees its place in the pod, through the gateway, whatever its request was doing."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from test_serve.live_pods import InsideGateway, LiveForkServer, LivePod, child_pod, inside_gateway

LONG = {"prompt": "tell a long story", "max_new_tokens": 50_000, "ignore_eos": True, "temperature": 0}


@asynccontextmanager
async def _asking(
    gateway: InsideGateway, path: str, stream: bool
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A raw connection whose long request is sent."""
    body = json.dumps(LONG | {"model": "narrow", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
    if path.startswith("/v1"):
        body = body.replace("max_new_tokens", "max_tokens")
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):  # the test may have cut it itself
            await writer.wait_closed()


def _leave(writer: asyncio.StreamWriter, how: str) -> None:
    if how == "closes":
        writer.close()
    elif how == "half-closes":
        writer.write_eof()
    else:
        linger = b"\x01\0\0\0\0\0\0\0"
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


async def _until(pod: LivePod, **expected: int) -> None:
    await asyncio.to_thread(pod.until_load, **expected)


@pytest.mark.parametrize("how", ["closes", "half-closes", "resets"])
@pytest.mark.parametrize("path", ["/generate/narrow", "/v1/chat/completions"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_its_place_is_free_at_once(narrow: LivePod, how: str, path: str, stream: bool) -> None:
    cancelled = narrow.outcomes().get("cancelled", 0)
    async with inside_gateway(narrow) as gateway, _asking(gateway, path, stream) as (reader, writer):
        if stream:
            await reader.readuntil(b"data: {")
        await _until(narrow, in_flight=1)
        _leave(writer, how)
        await _until(narrow, in_flight=0, queued=0, cache_tokens=0)
    assert narrow.outcomes()["cancelled"] == cancelled + 1


@asynccontextmanager
async def _busy(pod: LivePod) -> AsyncIterator[tuple[InsideGateway, asyncio.StreamReader]]:
    """A gateway whose pod decodes as many streams as it may; the reader of one of them."""
    async with inside_gateway(pod) as gateway, AsyncExitStack() as stack:
        # Who asks before the pod is known to be ready is held, and then waits in a full queue, too.
        async with asyncio.timeout(30):
            while not all(gateway.registry.backends(model) for model in gateway.registry.models()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        for _ in range(2):
            reader, _ = await stack.enter_async_context(_asking(gateway, "/generate/narrow", True))
            await reader.readuntil(b"data: {")
        await _until(pod, in_flight=2, queued=0)
        yield gateway, reader
    await _until(pod, in_flight=0, queued=0)


async def test_who_leaves_the_queue_makes_room(narrow: LivePod) -> None:
    cancelled = narrow.outcomes().get("cancelled", 0)
    async with _busy(narrow) as (gateway, running):
        async with _asking(gateway, "/generate/narrow", False) as (_, waiting):
            await _until(narrow, in_flight=2, queued=1)
            _leave(waiting, "closes")
            await _until(narrow, in_flight=2, queued=0)
        assert narrow.outcomes()["cancelled"] == cancelled + 1
        assert await running.readline()  # the running ones never noticed


async def test_a_waiting_stream_shows_life_and_may_leave_too(narrow: LivePod) -> None:
    async with _busy(narrow) as (gateway, _), _asking(gateway, "/generate/narrow", True) as (waiting, leaving):
        assert (await waiting.readuntil(b": queued\n\n")).startswith(b"HTTP/1.1 200 ")
        assert narrow.load()["queued"] == 1
        _leave(leaving, "closes")
        await _until(narrow, in_flight=2, queued=0)


async def test_a_full_queue(narrow: LivePod) -> None:
    async with _busy(narrow) as (gateway, _), _asking(gateway, "/generate/narrow", False):
        await _until(narrow, in_flight=2, queued=1)
        status, body, headers = await gateway.post("/generate/narrow", {"prompt": "hi"})
        assert (status, body["details"]["code"], body["details"]["limit"]) == (429, "queue_full", 3)
        assert int(headers["Retry-After"]) >= 1
        chat = {"model": "narrow", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        status, body, headers = await gateway.post("/v1/chat/completions", chat)
        assert (status, body["error"]["code"], body["error"]["type"]) == (429, "queue_full", "rate_limit_error")
        assert int(headers["Retry-After"]) >= 1
    async with inside_gateway(narrow) as gateway:
        assert (await gateway.post("/generate/narrow", {"prompt": "hi", "max_new_tokens": 1}))[0] == 200


def test_one_request_at_a_time(forks: LiveForkServer, folder: Path, llama: Path) -> None:
    """concurrent_requests=1 means one, in the batch and in the memory that its cache takes."""
    with child_pod(forks, folder, llama, "single", concurrent_requests=1) as pod:
        assert pod.load()["cache_capacity_tokens"] == 2048
