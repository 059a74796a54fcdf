"""Pods that attack: endless answers, headers for clients, and numbers that no program can hold."""

import asyncio
from pathlib import Path

import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Progress
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Behaviour, Exchange, FakeRegistry, post, raw_connection, read_raw_answer

MIB = 1 << 20


def _anonymous_memory() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def _endless(head: bytes) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(head)
        for _ in range(150):
            await exchange.chunk(b" " * MIB)
        exchange.cut()

    return behave


CHUNKED = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("status", [200, 400, 503])
async def test_an_endless_answer_stays_out_of_memory(start: Start, pod, registry: FakeRegistry, status: int) -> None:
    registry.add("m", (await pod(_endless(CHUNKED % status))).address, (await pod(_endless(CHUNKED % status))).address)
    running = await start(registry)
    before = most = _anonymous_memory()
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{}"))
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"%d" % status
        while await reader.read(MIB):
            most = max(most, _anonymous_memory())
    assert most - before < 32 * MIB


@pytest.mark.parametrize("status", [200, 500])
async def test_an_endless_answer_to_a_stream_that_has_begun_ends_it(
    start: Start, pod, registry: FakeRegistry, status: int
) -> None:
    registry.add("m")
    registry.set_progress("m", Progress(Phase.DOWNLOADING, 1.0))
    running = await start(registry)
    before = _anonymous_memory()
    async with running.client.post(running.url + "/generate/m", json={"prompt": "x", "stream": True}) as response:
        await response.content.readuntil(b"\n\n")
        registry.add_backend("m", (await pod(_endless(CHUNKED % status))).address)
        text = await response.text()
    assert "event: error" in text
    assert "backend_failed" in text
    assert _anonymous_memory() - before < 32 * MIB


@pytest.mark.parametrize("line", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 100 Continue\r\nA: b\r\n\r\n"])
async def test_endless_interim_answers_are_an_error(start: Start, pod, registry: FakeRegistry, line: bytes) -> None:
    async def behave(exchange: Exchange) -> None:
        while True:
            await exchange.send(line * 1000)

    registry.add("m", (await pod(behave)).address)
    running = await start(registry)
    status, body, _ = await asyncio.wait_for(running.post("/generate/m", {}), 5)
    assert (status, body["details"]["code"]) == (502, "backend_failed")


async def test_a_few_interim_answers_are_passed_over(start: Start, pod, registry: FakeRegistry) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 3)
        await exchange.json(200, {"response": "x"})

    registry.add("m", (await pod(behave)).address)
    assert (await (await start(registry)).post("/generate/m", {}))[:2] == (200, {"response": "x"})


PASSED = {"Content-Type": "application/json", "X-AMS-Usage": "prompt=1 completion=2", "Retry-After": "3"}
STOPPED = {
    "Set-Cookie": "session=evil; Path=/",
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Credentials": "true",
    "Location": "https://evil.example/",
    "Link": "<https://evil.example/x.js>; rel=preload",
    "Content-Security-Policy": "default-src *",
    "Clear-Site-Data": "*",
    "Strict-Transport-Security": "max-age=1",
    "X-Anything": "x",
    "Refresh": "0; url=https://evil.example/",
    "X-AMS-Pod": "another",
    "X-AMS-Model": "another",
}


@pytest.mark.parametrize("status", [200, 302, 404, 503])
@pytest.mark.parametrize("size", [10, 400_000])
async def test_only_known_headers_of_a_pod_reach_the_client(
    start: Start, pod, registry: FakeRegistry, status: int, size: int
) -> None:
    async def behave(exchange: Exchange) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in (PASSED | STOPPED).items())
        await exchange.send(f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{head}\r\n".encode() + b"x" * size)

    registry.add("m", (await pod(behave)).address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}, allow_redirects=False) as response:
        headers = response.headers
        assert response.status == status
    assert {name: headers[name] for name in PASSED} == PASSED
    assert [name for name in STOPPED if headers.get(name) == STOPPED[name]] == []
    assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        ("text/html", "application/octet-stream"),
        ("TEXT/HTML; charset=utf-8", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("application/javascript", "application/octet-stream"),
        ("application/json; charset=utf-8", "application/json; charset=utf-8"),
        ("application/problem+json", "application/problem+json"),
        ("text/plain", "text/plain"),
    ],
)
async def test_content_types_that_a_browser_would_run_become_bytes(
    start: Start, pod, registry: FakeRegistry, sent: str, received: str
) -> None:
    registry.add("m", (await pod(lambda exchange: exchange.answer(200, b"<script>", Content_Type=sent))).address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}) as response:
        assert response.headers["Content-Type"] == received


@pytest.mark.parametrize(
    "headers",
    [
        b"X-AMS-Usage: prompt=" + b"9" * 5000 + b" completion=1\r\n",
        b"X-AMS-Usage: \xff\xfe\r\n",
        b"Cache-Control: \xff\xfe\r\n",
        b"X-AMS-Queue-Seconds: nan\r\n",
        b"Content-Type: \xff\r\n",
    ],
)
async def test_odd_headers_of_a_pod_are_no_fault_of_the_gateway(
    start: Start, pod, registry: FakeRegistry, headers: bytes
) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 \xff\xfe\r\nContent-Length: 2\r\n" + headers + b"\r\n{}")

    registry.add("m", (await pod(behave)).address)
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{}"))
        answer = await read_raw_answer(reader)
    assert (answer.status, answer.body) == (200, b"{}")
