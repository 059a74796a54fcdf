"""Clients that send little to cost much: bombs, bodies that never come, and too many of them at once."""

import asyncio
import gzip
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest
from ams_common.room import STALLED_SECONDS
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import FakePod, FakeRegistry, post, raw_connection, read_raw_answer
from test_gateway.test_bodies import MIB, GatewayProcess, backend, process

__all__ = ["backend", "process"]  # fixtures of test_bodies

CHAT, TEXT, NATIVE = "/v1/chat/completions", "/v1/completions", "/generate/m"
MOST_GROWTH = 12 * MIB  # three at once: the head of each that is kept, about 2 MiB beyond, and slack
MOST_WAIT_SECONDS = 0.5  # 50 ms on a machine of its own; it had been 4 to 8 s


def _repeated(start: bytes, item: bytes, end: bytes, size: int = 64 * MIB) -> bytes:
    return start + item * ((size - len(start) - len(end)) // len(item)) + end


BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "messages": (CHAT, lambda: _repeated(b'{"model":"m","messages":[', b"{},", b"{}]}")),
    "messages with a role": (CHAT, lambda: _repeated(b'{"model":"m","messages":[', b'{"role":"user"},', b"1]}")),
    "parts": (CHAT, lambda: _repeated(b'{"model":"m","messages":[{"content":[', b'{"type":"a"},', b"{}]}]}")),
    "prompt of lists": (TEXT, lambda: _repeated(b'{"model":"m","prompt":[', b"[],", b"[]]}")),
    "prompt of numbers": (TEXT, lambda: _repeated(b'{"model":"m","prompt":[', b"7,", b"7]}")),
    "unknown keys": (NATIVE, lambda: b'{"prompt":"x"' + b"".join(b',"%x":1' % n for n in range(5_000_000)) + b"}"),
    "images": (NATIVE, lambda: _repeated(b'{"prompt":"x","image":[', b'"",', b'""]}')),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
async def test_a_bomb_costs_little_memory_and_nobody_waits(
    process: GatewayProcess, backend: FakePod, name: str, packed: bool
) -> None:
    path, make = BOMBS[name]
    body = make()
    head = ("Content-Encoding: gzip",) if packed else ()
    sent = post(path, gzip.compress(body, 1) if packed else body, *head)
    del body
    before, most, longest = process.anonymous_memory(), 0, 0.0

    async def send() -> int:
        async with raw_connection(process.port) as (reader, writer):
            writer.write(sent)
            return (await read_raw_answer(reader)).status

    async with aiohttp.ClientSession() as client:
        bombs = [asyncio.create_task(send()) for _ in range(3)]
        while not all(bomb.done() for bomb in bombs):
            started = time.perf_counter()
            async with client.get(f"http://127.0.0.1:{process.port}/health") as response:
                assert response.status == 200
            longest = max(longest, time.perf_counter() - started)
            most = max(most, process.anonymous_memory())
            await asyncio.sleep(0.005)
    assert [await bomb for bomb in bombs] == [413, 413, 413]
    assert most - before < MOST_GROWTH
    assert longest < MOST_WAIT_SECONDS
    assert [request for request in backend.received if request.method == "POST" and len(request.body) > 2] == []


async def test_what_a_body_may_hold_is_the_same_in_small_and_large_ones(start: Start, pod, registry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry)
    for padding in (0, 2 * MIB):
        for count, status in ((15_000, 200), (25_000, 413)):
            body = b'{"prompt":"x","y":[' + b"[]," * count + b'1],"z":"' + b"z" * padding + b'"}'
            got, answer, _ = await running.post("/v1/chat/completions", b'{"model":"m",' + body[1:])
            assert got == status, answer


@pytest.mark.parametrize("path", [CHAT, TEXT, NATIVE, "/v1/audio/transcriptions"])
@pytest.mark.parametrize("announced", [MIB - 1, 3 * MIB])
async def test_a_body_that_only_drips_in_is_given_up(
    start: Start, pod, registry: FakeRegistry, path: str, announced: int
) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry, body_timeout_seconds=0.2)
    async with raw_connection(running.port) as (reader, writer):
        kind = "Content-Type: multipart/form-data; boundary=x" if "audio" in path else "X-Nothing: 1"
        head = post(path, b"", kind, f"Content-Length: {announced}")
        writer.write(head.replace(b"Content-Type: application/json\r\n", b"") if "audio" in path else head)
        writer.write(b'"' + b"x" * (announced - 1000))

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(read_raw_answer(reader), 5)
        dripping.cancel()
    assert (answer.status, b"slower than 1,024 bytes a second" in answer.body) == (408, True)
    assert backend.connections == 0


async def test_a_body_has_a_time_in_all(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry, body_total_seconds=0.3, body_min_bytes_per_second=0)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post(CHAT, b"{", "Content-Length: 100"))
        answer = await asyncio.wait_for(read_raw_answer(reader), 5)
    assert (answer.status, b"did not arrive within 0.3 seconds" in answer.body) == (408, True)


async def test_slow_uploads_take_no_place_at_a_pod(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    async with AsyncExitStack() as stack:
        for _ in range(5):
            _, writer = await stack.enter_async_context(raw_connection(running.port))
            writer.write(post(NATIVE, b'{"prompt":"' + b"x" * (2 * MIB), f"Content-Length: {3 * MIB}"))
            await writer.drain()
        status, _, _ = await running.post(NATIVE, b'{"prompt":"' + b"x" * (2 * MIB) + b'"}')
        assert status == 200
        assert registry.entries["m"].backends[0].in_flight == 0
        assert len(backend.received) == 1


async def test_unfinished_bodies_share_a_bounded_room(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry, body_memory_bytes=MIB)
    part = b'{"model":"m","x":"' + b"x" * 700_000
    async with raw_connection(running.port) as (first_reader, first):
        first.write(post(CHAT, part, f"Content-Length: {len(part) + 2}"))
        await _until(lambda: running.gateway.body_room.in_memory == len(part))
        async with raw_connection(running.port) as (reader, writer):
            writer.write(post(CHAT, part, f"Content-Length: {len(part) + 2}"))
            answer = await read_raw_answer(reader)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert b'"overloaded"' in answer.body
        assert (await running.post(CHAT, {"model": "m"}))[0] == 200  # small ones come whole and take no room
        first.write(b'"}')
        assert (await read_raw_answer(first_reader)).status == 200
    await _until(lambda: running.gateway.body_room.in_memory == 0)


async def test_stalled_clients_keep_nobody_out(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry, body_memory_bytes=2 * MIB)
    part = b'{"model":"m","x":"' + b"x" * 900_000
    async with raw_connection(running.port) as (one_reader, one), raw_connection(running.port) as (other_reader, other):
        for writer in (one, other):
            writer.write(post(CHAT, part, f"Content-Length: {len(part) + 9}"))
        await _until(lambda: running.gateway.body_room.in_memory == 2 * len(part))
        await asyncio.sleep(STALLED_SECONDS)
        assert (await running.post(CHAT, part + b'"}'))[0] == 200
        answers = [asyncio.create_task(read_raw_answer(reader)) for reader in (one_reader, other_reader)]
        done, others = await asyncio.wait(answers, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [answer.result().status for answer in done] == [503], "the one that has stalled longer"
        for answer in others:
            answer.cancel()
        assert running.gateway.body_room.in_memory == len(part)


async def test_large_bodies_share_a_bounded_folder(start: Start, pod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod()).address)
    running = await start(registry, spool_bytes=4 * MIB)
    async with raw_connection(running.port) as (_, first):
        first.write(post(CHAT, b'"' + b"x" * (3 * MIB), f"Content-Length: {4 * MIB}"))
        room = running.gateway.body_room
        await _until(lambda: room.in_files + room.in_memory > 3 * MIB)  # all that was sent
        body = b'{"model":"m","x":"' + b"x" * (3 * MIB) + b'"}'
        assert (await running.post(CHAT, body))[0] == 503
    await _until(lambda: running.gateway.body_room.in_files == 0)
    assert (await running.post(CHAT, body))[0] == 200
    assert running.gateway.body_room.in_files == 0


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
