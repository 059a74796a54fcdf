"""Large bodies: bounded while they are read, and memory stays flat. The gateway runs as its own process here."""

import asyncio
import gzip
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry, post, raw_connection, read_raw_answer

MIB = 1 << 20
ALLOWED_GROWTH = 8 * MIB  # buffers of the loop, the allocator's slack; far below the bodies


@dataclass
class GatewayProcess:
    pid: int
    port: int

    def anonymous_memory(self) -> int:
        """Bytes of memory that no file backs: what a body in memory would take."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no RssAnon")


@pytest_asyncio.fixture
async def backend() -> AsyncIterator[FakePod]:
    started = await FakePod(lambda exchange: exchange.json(200, {"response": "ok"})).start()
    yield started
    await started.stop()


@pytest_asyncio.fixture
async def process(backend: FakePod) -> AsyncIterator[GatewayProcess]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from ams_gateway.main import main; main()", "--backend", f"m={backend.address}",
        "--port", "0", "--host", "127.0.0.1", stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert running.stderr is not None
    while b"listening on" not in (line := await running.stderr.readline()):
        assert line, "the gateway ended"
    gateway = GatewayProcess(running.pid, int(line.split(b"http://127.0.0.1:")[1].split(b" ")[0]))
    async with raw_connection(gateway.port) as (reader, writer):  # warm, so that what grows later is the body
        writer.write(post("/generate/m", b'{"prompt":"x"}'))
        assert (await read_raw_answer(reader)).status == 200
    backend.received.clear()
    yield gateway
    running.terminate()
    await running.stderr.read()
    assert await running.wait() == 0


async def _send(writer: asyncio.StreamWriter, head: bytes, start: bytes, mebibytes: int, end: bytes) -> None:
    """Send a body in chunks, ignoring that the gateway may answer and hang up first."""
    writer.write(head)
    filler = b"A" * (MIB // 4)
    try:
        for piece in (start, *([filler] * (4 * mebibytes)), end):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    except ConnectionError:
        pass


@pytest.mark.parametrize("path", ["/generate/m", "/v1/chat/completions"])
async def test_65_mebibytes_are_refused_while_they_are_read(
    process: GatewayProcess, backend: FakePod, path: str
) -> None:
    before = process.anonymous_memory()
    async with raw_connection(process.port) as (reader, writer):
        head = post(path, b"", "Transfer-Encoding: chunked")
        sending = asyncio.create_task(_send(writer, head, b'{"model":"m","prompt":"', 65, b'"}'))
        answer = await read_raw_answer(reader)
        growth = process.anonymous_memory() - before
        await sending
    assert (answer.status, b"body_too_large" in answer.body) == (413, True)
    assert growth < ALLOWED_GROWTH
    assert backend.received == []


@pytest.mark.parametrize("path", ["/generate/m", "/v1/chat/completions"])
async def test_an_announced_size_is_refused_at_once_and_the_client_reads_why(
    process: GatewayProcess, backend: FakePod, path: str
) -> None:
    """The client sends all before it reads, as most do: the answer must still reach it."""
    async with raw_connection(process.port) as (reader, writer):
        writer.write(post(path, b"", f"Content-Length: {65 * MIB}"))
        for _ in range(65):
            writer.write(b"x" * MIB)
            await writer.drain()
        answer = await read_raw_answer(reader)
    assert (answer.status, b"body_too_large" in answer.body) == (413, True)
    assert backend.connections == 2  # the poll of /ready and the first request


@pytest.mark.parametrize(
    ("path", "start", "end"),
    [
        ("/generate/m", b'{"prompt":"x","image":"', b'"}'),
        (
            "/v1/chat/completions",
            b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"',
            b'"}}]}]}',
        ),
    ],
    ids=["generate", "chat"],
)
async def test_60_mebibytes_pass_through_flat_memory(
    process: GatewayProcess, backend: FakePod, path: str, start: bytes, end: bytes
) -> None:
    before, at_the_end = process.anonymous_memory(), 0

    async def answer_and_measure(exchange: Exchange) -> None:
        nonlocal at_the_end
        at_the_end = process.anonymous_memory()
        await exchange.json(200, {"response": "ok"})

    backend.behaviour = answer_and_measure
    async with raw_connection(process.port) as (reader, writer):
        sending = asyncio.create_task(_send(writer, post(path, b"", "Transfer-Encoding: chunked"), start, 60, end))
        answer = await read_raw_answer(reader)
        await sending
    assert answer.status == 200
    received = next(request for request in backend.received if request.method == "POST").body
    assert len(received) == 60 * MIB + len(start) + len(end)
    assert received.startswith(start)
    assert received.endswith(end)
    assert at_the_end - before < ALLOWED_GROWTH


async def test_a_large_body_that_is_wrong(process: GatewayProcess, backend: FakePod) -> None:
    async with raw_connection(process.port) as (reader, writer):
        for body, status, code in (
            (b'{"model":"m",' + b" " * (2 * MIB), 400, b"invalid_json"),
            (b'{"model":7,"x":"' + b"a" * (2 * MIB) + b'"}', 400, b"model: expected str, got int"),
            (b"[" * (2 * MIB), 413, b"arrays, objects and keys"),
        ):
            writer.write(post("/v1/completions", body))
            answer = await read_raw_answer(reader)
            assert (answer.status, code in answer.body) == (status, True)


async def test_a_pods_answer_in_the_middle_of_an_upload_reaches_the_client(
    start: Start, registry: FakeRegistry
) -> None:
    """A pod may refuse a body before it has it all."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2 * MIB)
        writer.write(b"HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    registry.add("m", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    running = await start(registry)
    async with server, raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"", f"Content-Length: {5 * MIB}"))
        writer.write(b'"' + b"x" * (5 * MIB - 2) + b'"')
        answer = await read_raw_answer(reader)
    assert (answer.status, answer.body) == (413, b"{}")
    assert registry.entries["m"].backends[0].in_flight == 0


async def test_expect_100_continue(process: GatewayProcess, backend: FakePod) -> None:
    async with raw_connection(process.port) as (reader, writer):
        writer.write(post("/generate/m", b"", "Content-Length: 2", "Expect: 100-continue"))
        assert (await read_raw_answer(reader)).status == 100
        writer.write(b"{}")
        assert (await read_raw_answer(reader)).status == 200
        writer.write(post("/generate/nobody", b"", "Content-Length: 2", "Expect: 100-continue"))
        assert (await read_raw_answer(reader)).status == 404  # before a byte of the body was sent
    assert "expect" not in backend.received[-1].headers


async def test_a_packed_body_reaches_the_pod_unpacked(process: GatewayProcess, backend: FakePod) -> None:
    async with raw_connection(process.port) as (reader, writer):
        writer.write(post("/v1/completions", gzip.compress(b'{"model":"m"}'), "Content-Encoding: gzip"))
        assert (await read_raw_answer(reader)).status == 200
        writer.write(post("/generate/m", gzip.compress(b'{"prompt":"x"}'), "Content-Encoding: gzip"))
        assert (await read_raw_answer(reader)).status == 200
    posts = [request for request in backend.received if request.method == "POST"]
    assert [request.body for request in posts] == [b'{"model":"m"}', b'{"prompt":"x"}']
    assert all("content-encoding" not in request.headers for request in posts)


async def test_an_unpacked_bomb_counts_by_its_real_size(process: GatewayProcess, backend: FakePod) -> None:
    bomb = gzip.compress(b" " * (65 * MIB))
    before = process.anonymous_memory()
    async with raw_connection(process.port) as (reader, writer):
        writer.write(post("/v1/completions", bomb, "Content-Encoding: gzip"))
        answer = await read_raw_answer(reader)
    assert answer.status == 413
    assert process.anonymous_memory() - before < ALLOWED_GROWTH
