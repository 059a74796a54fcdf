"""Bodies that a pod gets without a gateway in between: slow ones end, and all of them share a bounded room."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from ams_common.room import STALLED_SECONDS, PaceLimits, Room
from ams_pod.serve import reading
from ams_pod.serve.pod import ModelPod
from test_gateway.gateway_fakes import post, raw_connection, read_raw_answer
from test_serve.test_engine_port import Client, ShoutingEngine, serving

MIB = 1 << 20
PATHS = ["/generate", "/v1/chat/completions", "/v1/completions"]


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """The room of each pod that is made, of 2 MiB in memory and 4 MiB in files."""
    made: list[Room] = []

    def make(self: ModelPod, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        self.body_room = Room(2 * MIB, 4 * MIB)
        made.append(self.body_room)

    original = ModelPod.__init__
    monkeypatch.setattr(ModelPod, "__init__", make)
    return made


@pytest.fixture
async def client(rooms: list[Room], tmp_path: Path) -> AsyncIterator[Client]:
    async with serving(tmp_path, ShoutingEngine) as client:
        yield client


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("announced", [MIB - 1, 3 * MIB])
async def test_a_body_that_only_drips_in_is_given_up(
    client: Client, rooms: list[Room], path: str, announced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "PACE", PaceLimits(0.2, 60.0, 1024.0))
    async with raw_connection(client.port) as (reader, writer):
        writer.write(post(path, b'"' + b"x" * (announced - 1000), f"Content-Length: {announced}"))

        async def drip() -> None:
            while True:
                writer.write(b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        answer = await asyncio.wait_for(read_raw_answer(reader), 5)
        dripping.cancel()
    assert (answer.status, b"slower than 1,024 bytes a second" in answer.body) == (408, True)
    assert (rooms[0].in_memory, rooms[0].in_files) == (0, 0)


async def test_a_body_has_a_time_in_all(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PACE", PaceLimits(9.0, 0.3, 0.0))
    async with raw_connection(client.port) as (reader, writer):
        writer.write(post("/generate", b"{", "Content-Length: 100"))
        answer = await asyncio.wait_for(read_raw_answer(reader), 5)
    assert (answer.status, b"did not arrive within 0.3 seconds" in answer.body) == (408, True)


async def test_unfinished_bodies_share_a_bounded_room(client: Client, rooms: list[Room]) -> None:
    part = b'{"prompt":"hi","x":"' + b"x" * 1_000_000
    async with raw_connection(client.port) as (first_reader, first), raw_connection(client.port) as (_, second):
        first.write(post("/generate", part, f"Content-Length: {len(part) + 2}"))
        second.write(post("/generate", part, f"Content-Length: {len(part) + 2}"))
        async with asyncio.timeout(5):
            while rooms[0].in_memory < 2 * len(part):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        async with raw_connection(client.port) as (reader, writer):
            writer.write(post("/generate", part, f"Content-Length: {len(part) + 2}"))
            answer = await read_raw_answer(reader)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        assert b'"overloaded"' in answer.body
        assert (await client.post("/generate", prompt="hi"))[0] == 200
        first.write(b'"}')
        assert (await read_raw_answer(first_reader)).status == 200
    async with asyncio.timeout(5):
        while rooms[0].in_memory or rooms[0].in_files:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_large_bodies_share_a_bounded_folder(client: Client, rooms: list[Room]) -> None:
    async with raw_connection(client.port) as (_, first):
        first.write(post("/generate", b'"' + b"x" * (3 * MIB), f"Content-Length: {4 * MIB}"))
        async with asyncio.timeout(5):
            while rooms[0].in_files + rooms[0].in_memory < 3 * MIB:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert (await client.post("/generate", prompt="hi", x="x" * (3 * MIB)))[0] == 503
    async with asyncio.timeout(5):
        while rooms[0].in_files:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert (await client.post("/generate", prompt="hi", x="x" * (3 * MIB)))[0] == 200


async def test_stalled_clients_keep_nobody_out(client: Client, rooms: list[Room]) -> None:
    part = b'{"prompt":"hi","x":"' + b"x" * 900_000
    async with raw_connection(client.port) as (one_reader, one), raw_connection(client.port) as (other_reader, other):
        for writer in (one, other):
            writer.write(post("/generate", part, f"Content-Length: {len(part) + 9}"))
        async with asyncio.timeout(5):
            while rooms[0].in_memory < 2 * len(part):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(STALLED_SECONDS)
        assert (await client.post("/generate", prompt="hi", x="x" * 900_000))[0] == 200
        answers = [asyncio.create_task(read_raw_answer(reader)) for reader in (one_reader, other_reader)]
        done, others = await asyncio.wait(answers, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        assert [answer.result().status for answer in done] == [503], "the one that has stalled longer"
        for answer in others:
            answer.cancel()
