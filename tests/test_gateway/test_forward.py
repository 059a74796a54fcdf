"""A request's way to a pod and back: what passes unchanged, what is added, what stays behind."""

import asyncio
import gzip
import io
import json

import pytest
from aiohttp import web
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, post, raw_connection, read_raw_answer


async def test_generate_reaches_the_pod_and_its_answer_the_client(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("qwen-vl", backend.address)
    running = await start(registry)
    body = b'{"prompt": "hi", "max_new_tokens": 3}'
    status, answer, headers = await running.post("/generate/qwen_vl", body, headers={"X-Request-Id": "my-id.1"})
    assert (status, answer) == (200, {"response": "hello"})
    received = backend.received[0]
    assert (received.method, received.target, received.body) == ("POST", "/generate", body)
    assert received.headers["x-request-id"] == headers["X-Request-Id"] == "my-id.1"
    assert headers["X-AMS-Model"] == "qwen-vl"
    assert "X-AMS-Pod" not in headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", ["smollm2", "SMOLLM2", "tiny_one"])
async def test_openai_routes_go_by_the_body_and_pass_it_unchanged(
    start: Start, pod, registry: FakeRegistry, path: str, name: str
) -> None:
    backend = await pod()
    registry.add("smollm2", backend.address, aliases=("tiny-one",))
    running = await start(registry)
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "hé"}], "unknown": [1.50]}).encode()
    status, _, headers = await running.post(path, body)
    assert status == 200
    assert headers["X-AMS-Model"] == "smollm2"
    assert (backend.received[0].target, backend.received[0].body) == (path, body)


async def test_headers_of_one_hop_and_credentials_stay_behind(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod(
        lambda exchange: exchange.json(200, {}, Keep_Alive="timeout=5", X_AMS_Queue_Seconds="2.0", Server="secret")
    )
    registry.add("m", backend.address)
    running = await start(registry, expose_pod=True)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(
            post(
                "/generate/m?verbose=1",
                b"{}",
                "Connection: keep-alive, X-Private",
                "X-Private: a",
                "TE: trailers",
                "Authorization: Bearer k",
                "X-API-Key: k",
                "Cookie: a=b",
                "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "X-Custom: b",
            )
        )
        answer = await read_raw_answer(reader)
    received = backend.received[0].headers
    for name in ("te", "authorization", "x-api-key", "cookie", "x-private", "accept-encoding", "connection"):
        assert name not in received
    assert received["traceparent"].startswith("00-0af7")
    assert received["x-custom"] == "b"
    assert answer.headers["x-ams-queue-seconds"] == "2.0"
    assert answer.headers["server"] == "ai-model-server"
    assert answer.headers["x-ams-pod"] == "m-0"
    assert "keep-alive" not in answer.headers


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "new\tline", "é"])
async def test_a_strange_request_id_is_replaced(start: Start, pod, registry: FakeRegistry, given: str) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{}", f"X-Request-Id: {given}"))
        answer = await read_raw_answer(reader)
    assert len(answer.headers["x-request-id"]) == 24
    assert answer.headers["x-request-id"] == backend.received[0].headers["x-request-id"]


@pytest.mark.parametrize(
    ("size", "accept", "packed"),
    [(2000, "gzip", True), (2000, "br, gzip;q=0.5", True), (2000, "gzip;q=0", False), (2000, "br", False),
     (500, "gzip", False)],
)  # fmt: skip
async def test_large_answers_are_packed_for_clients_that_accept_it(
    start: Start, pod, registry: FakeRegistry, size: int, accept: str, packed: bool
) -> None:
    text = json.dumps({"response": "x" * size}).encode()
    backend = await pod(lambda exchange: exchange.answer(200, text, Content_Type="application/json"))
    registry.add("m", backend.address)
    running = await start(registry)
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", b"{}", f"Accept-Encoding: {accept}"))
        answer = await read_raw_answer(reader)
    assert answer.headers.get("content-encoding") == ("gzip" if packed else None)
    assert (gzip.decompress(answer.body) if packed else answer.body) == text


async def test_a_large_answer_is_passed_in_pieces(start: Start, pod, registry: FakeRegistry) -> None:
    data = bytes(range(256)) * 8192
    backend = await pod(lambda exchange: exchange.answer(200, data, Content_Type="application/octet-stream"))
    registry.add("m", backend.address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}) as response:
        assert await response.read() == data
        assert response.headers["Content-Length"] == str(len(data))


async def test_a_pods_error_passes_through_as_it_is(start: Start, pod, registry: FakeRegistry) -> None:
    error = {"error": "prompt is too long.", "details": {"code": "context_length_exceeded", "limit": 8}}
    backend = await pod(lambda exchange: exchange.json(400, error))
    registry.add("m", backend.address)
    running = await start(registry)
    status, answer, _ = await running.post("/generate/m", {"prompt": "x"})
    assert (status, answer) == (400, error)


async def test_stream_bytes_arrive_as_they_were_sent_and_when_they_were_sent(
    start: Start, pod, registry: FakeRegistry
) -> None:
    events = [
        'data: {"response": "né"}\n\n'.encode(),
        b": comment\n\n",
        b"data: [DONE]\n\n",
    ]
    kept = [b"", b": usage prompt=1 completion=1\n\n", b": usage prompt=7 completion=9\n\n"]
    read = [asyncio.Event() for _ in events]

    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for event, was_read in zip(events, read, strict=True):
            await exchange.chunk(kept.pop(0) + event)
            await was_read.wait()
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    headers = {"Accept-Encoding": "gzip"}
    async with running.client.post(running.url + "/generate/m", json={"stream": True}, headers=headers) as response:
        assert response.headers["Content-Type"] == "text/event-stream"
        assert "Content-Encoding" not in response.headers
        for event, was_read in zip(events, read, strict=True):
            assert await response.content.readexactly(len(event)) == event
            was_read.set()
        assert await response.content.read() == b""
    text = await running.metrics()
    assert 'ams_gateway_tokens_total{model="m",token_type="input"} 7.0' in text
    assert 'ams_gateway_tokens_total{model="m",token_type="output"} 9.0' in text


async def test_an_event_in_two_pieces_arrives_whole(start: Start, pod, registry: FakeRegistry) -> None:
    async def stream(exchange: Exchange) -> None:
        await exchange.start_stream()
        for piece in (b"data: 1\n\ndata", b": 2", b"\n", b"\ndata: 3\r\n\r\n", b"data: no end"):
            await exchange.chunk(piece)
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m", backend.address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={}) as response:
        assert await response.read() == b"data: 1\n\ndata: 2\n\ndata: 3\r\n\r\ndata: no end"


async def test_unix_sockets_work(start: Start, registry: FakeRegistry, tmp_path) -> None:
    async def generate(request: web.Request) -> web.Response:
        return web.json_response({"response": (await request.json())["prompt"]})

    app = web.Application()
    app.router.add_post("/generate", generate)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(tmp_path / "pod.sock")).start()
    try:
        registry.add("m", f"unix://{tmp_path}/pod.sock")
        running = await start(registry)
        assert (await running.post("/generate/m", {"prompt": "a"}))[1] == {"response": "a"}
    finally:
        await runner.cleanup()


async def test_the_pod_with_fewest_requests_in_flight_is_chosen(start: Start, pod, registry: FakeRegistry) -> None:
    async def wait(exchange: Exchange) -> None:
        await exchange.until_client_is_gone()

    busy, idle = await pod(wait), await pod()
    registry.add("m", busy.address, idle.address)
    registry.entries["m"].backends[0].in_flight = 2
    running = await start(registry)
    for _ in range(4):
        assert (await running.post("/generate/m", {}))[0] == 200
    assert (len(busy.received), len(idle.received)) == (0, 4)
    assert idle.connections == 1  # kept alive
    assert [backend.in_flight for backend in registry.entries["m"].backends] == [2, 0]


async def test_bodies_that_get_a_connection_of_their_own_leave_no_more_behind(
    start: Start, pod, registry: FakeRegistry
) -> None:
    """One above 1 MiB can be sent only once, so it never goes over a kept connection."""
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    for _ in range(6):
        body = io.BytesIO(b'{"prompt": "' + b"x" * (1 << 21) + b'"}')
        headers = {"Content-Type": "application/json"}
        async with running.client.post(running.url + "/generate/m", data=body, headers=headers) as response:
            assert response.status == 200
    assert backend.connections == 6
    async with asyncio.timeout(10):
        for _ in range(5):
            await backend.ended.acquire()
