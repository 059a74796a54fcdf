"""Requests for models that aren't ready: bounded waiting, visible progress, and errors after status 200 was sent."""

import asyncio

import pytest
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.progress import Progress
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry, post, raw_connection, say_hello

DOWNLOADING = Progress(phase=Phase.DOWNLOADING, percent=43.21, eta_seconds=190.4)
COMMENT = ": downloading 43 % eta 190s\n\n"
EVENT = 'event: progress\ndata: {"phase":"downloading","percent":43.2,"eta_seconds":190}\n\n'
CHAT = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


@pytest.fixture
def quick_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_gateway.proxy.hold._SILENCE_BEFORE_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr("ams_gateway.proxy.hold._STEP_SECONDS", 0.01)


async def test_a_plain_request_waits_and_is_answered(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    entry = registry.add("m")
    running = await start(registry)
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x"}))
    await entry.demanded.wait()
    assert 'ams_gateway_requests_held{model="m"} 1.0' in await running.metrics()
    registry.add_backend("m", backend.address)
    status, answer, headers = await request
    assert (status, answer) == (200, {"response": "hello"})
    assert float(headers["X-AMS-Queue-Seconds"]) >= 0
    assert entry.demand == 0
    text = await running.metrics()
    assert 'ams_gateway_requests_held{model="m"} 0.0' in text
    assert 'ams_gateway_hold_seconds_count{model="m"} 1.0' in text


@pytest.mark.parametrize(("path", "body"), [("/generate/m", {"prompt": "x"}), ("/v1/chat/completions", CHAT)])
async def test_a_plain_request_that_outlives_the_hold(start: Start, registry: FakeRegistry, path: str, body) -> None:
    entry = registry.add("m")
    registry.set_progress("m", DOWNLOADING)
    running = await start(registry, hold_seconds=0.01)
    status, answer, headers = await running.post(path, body)
    assert (status, headers["Retry-After"]) == (503, "191")
    assert entry.demanded.is_set()
    assert entry.demand == 0
    if path.startswith("/v1"):
        assert answer["error"]["code"] == "model_loading"
    else:
        details = answer["details"]
        assert (details["code"], details["phase"], details["percent"], details["eta_seconds"]) == (
            "model_loading",
            "downloading",
            43.2,
            190,
        )


async def test_more_than_the_limit_is_refused(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    entry = registry.add("m")
    running = await start(registry, hold_limit=2)
    held = [asyncio.create_task(running.post("/generate/m", {"prompt": "x"})) for _ in range(2)]
    while entry.demand < 2:
        entry.demanded.clear()
        await entry.demanded.wait()
    status, answer, headers = await running.post("/generate/m", {"prompt": "x"})
    assert (status, answer["details"]["code"], answer["details"]["limit"]) == (429, "queue_full", 2)
    assert int(headers["Retry-After"]) >= 1
    registry.add_backend("m", backend.address)
    assert [(await request)[0] for request in held] == [200, 200]


@pytest.mark.parametrize("code", ["model_failed", "suspended"])
async def test_a_model_that_will_not_get_ready(start: Start, registry: FakeRegistry, code: str) -> None:
    registry.add("m")
    registry.fail("m", ApiError(code, "The weights are gone.", reason="SourceNotFound"))
    running = await start(registry)
    status, answer, headers = await running.post("/generate/m", {"prompt": "x"})
    assert (status, answer["error"], answer["details"]["reason"]) == (503, "The weights are gone.", "SourceNotFound")
    assert headers["X-Should-Retry"] == "false"


async def test_a_wrong_body_wakes_no_model(start: Start, registry: FakeRegistry) -> None:
    entry = registry.add("m")
    running = await start(registry)
    for body, code in (
        (b"{", "invalid_json"),
        (b"{}", "missing_prompt"),
        (b'{"prompt":"x","temperature":9}', "invalid_parameter"),
    ):
        status, answer, _ = await running.post("/generate/m", body)
        assert (status, answer["details"]["code"]) == (400, code)
    assert not entry.demanded.is_set()


@pytest.mark.parametrize(
    ("path", "right", "wrong"),
    [
        ("/v1/chat/completions", CHAT, {"messages": 3, "temperature": 9, "n": "x", "stream": "yes", "tools": {}}),
        ("/v1/completions", {"model": "m", "prompt": "x"}, {"prompt": "", "max_tokens": "x", "top_p": 3}),
        ("/v1/embeddings", {"model": "m", "input": "x"}, {"input": {}, "dimensions": "x"}),
        ("/v1/rerank", {"model": "m", "query": "x", "documents": ["y"]}, {"query": 3, "documents": "y", "top_n": "x"}),
        ("/v1/responses", {"model": "m", "input": "x"}, {"input": "", "temperature": 9, "max_output_tokens": "x"}),
        (
            "/v1/messages",
            {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]},
            {"max_tokens": "x", "temperature": 9},
        ),
        (
            "/v1/messages/count_tokens",
            {"model": "m", "messages": [{"role": "user", "content": "x"}]},
            {"system": 3, "tools": {}},
        ),
        ("/tokenize", {"model": "m", "prompt": "x"}, {"prompt": {}, "messages": [{"role": "user", "content": "x"}]}),
        ("/detokenize", {"model": "m", "tokens": [1]}, {"tokens": "x"}),
    ],
)
async def test_no_route_wakes_a_model_for_a_wrong_body(
    start: Start, registry: FakeRegistry, path: str, right: dict[str, object], wrong: dict[str, object]
) -> None:
    entry = registry.add("m")
    running = await start(registry, hold_seconds=0.01)
    bodies = [right | {name: value} for name, value in wrong.items()]
    # Each field that it can't do without, and a body that is kept in a file.
    bodies += [{name: value for name, value in right.items() if name != left} for left in right if left != "model"]
    bodies.append(bodies[0] | {"user": "x" * 1_100_000})
    for body in bodies:
        status, answer, _ = await running.post(path, body)
        assert status == 400, (body if len(str(body)) < 999 else "a large one", answer)
    assert not entry.demanded.is_set()
    assert (await running.post(path, right))[0] == 503
    assert entry.demanded.is_set()


@pytest.mark.usefixtures("quick_progress")
@pytest.mark.parametrize(
    ("path", "body", "progress"),
    [
        ("/generate/m", {"prompt": "x", "stream": True}, EVENT),
        ("/v1/chat/completions", CHAT | {"stream": True}, COMMENT),
    ],
)
async def test_a_stream_sees_progress_and_then_the_answer(
    start: Start, pod, registry: FakeRegistry, path: str, body, progress: str
) -> None:
    async def stream(exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b"data: 1\n\n")
        await exchange.end_stream()

    backend = await pod(stream)
    registry.add("m")
    registry.set_progress("m", DOWNLOADING)
    running = await start(registry)
    async with running.client.post(running.url + path, json=body) as response:
        assert (response.status, response.headers["X-AMS-Model"]) == (200, "m")
        assert response.content_type == "text/event-stream"
        assert (await response.content.readexactly(len(progress))).decode() == progress
        registry.set_progress("m", Progress(phase=Phase.READING))
        while b"reading" not in await response.content.readline():
            pass
        await response.content.readline()
        registry.add_backend("m", backend.address)
        assert (await response.content.read()).endswith(b"data: 1\n\n")


@pytest.mark.usefixtures("quick_progress")
async def test_a_stream_stays_longer_than_the_hold(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("m")
    running = await start(registry, hold_seconds=0.0)
    async with running.client.post(running.url + "/generate/m", json={"prompt": "x", "stream": True}) as response:
        assert await response.content.readline() == b"event: progress\n"
        registry.add_backend("m", backend.address)
        assert b'data: {"response": "hello"}\n\n' in await response.content.read()


@pytest.mark.usefixtures("quick_progress")
@pytest.mark.parametrize("path", ["/generate/m", "/v1/chat/completions"])
async def test_errors_after_progress_travel_in_the_stream(start: Start, registry: FakeRegistry, path: str) -> None:
    registry.add("m")
    running = await start(registry)
    body = CHAT | {"prompt": "x", "stream": True}
    async with running.client.post(running.url + path, json=body) as response:
        await response.content.readuntil(b"\n\n")
        registry.fail("m", ApiError("model_failed", "The weights are gone."))
        text = (await response.content.read()).decode()
    last = text.strip().split("\n\n")[-1]
    assert last.startswith('data: {"error":{' if path.startswith("/v1") else 'event: error\ndata: {"error":"The w')
    assert "model_failed" in last


@pytest.mark.usefixtures("quick_progress")
@pytest.mark.parametrize("path", ["/generate/m", "/v1/chat/completions"])
async def test_a_pods_refusal_after_progress_travels_in_the_stream(
    start: Start, pod, registry: FakeRegistry, path: str
) -> None:
    refusal = ApiError("insufficient_memory", "No memory.").body(path, "x")
    backend = await pod(lambda exchange: exchange.answer(503, refusal, Content_Type="application/json"))
    registry.add("m")
    running = await start(registry)
    body = CHAT | {"prompt": "x", "stream": True}
    async with running.client.post(running.url + path, json=body) as response:
        await response.content.readuntil(b"\n\n")
        registry.add_backend("m", backend.address)
        text = await response.content.read()
    assert text.endswith(b"data: " + refusal + b"\n\n")


async def test_a_stream_whose_model_is_ready_at_once_gets_the_pods_own_status(
    start: Start, pod, registry: FakeRegistry
) -> None:
    refusal = ApiError("insufficient_memory", "No memory.").body("/generate", "x")
    backend = await pod(lambda exchange: exchange.answer(503, refusal, Content_Type="application/json"))
    entry = registry.add("m")
    running = await start(registry)
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x", "stream": True}))
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    assert (await request)[0] == 503


@pytest.mark.usefixtures("quick_progress")
async def test_a_long_body_is_searched_for_stream(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("m")
    running = await start(registry)
    body = b'{"stream": true, "prompt": "x", "image": "' + b"A" * 3_000_000 + b'"}'
    async with raw_connection(running.port) as (reader, writer):
        writer.write(post("/generate/m", body))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"text/event-stream" in head
        registry.add_backend("m", backend.address)
        await reader.readuntil(b"0\r\n\r\n")
    assert backend.received[0].body == body


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.usefixtures("quick_progress")
async def test_a_client_that_leaves_leaves_the_hold(start: Start, registry: FakeRegistry, stream: bool) -> None:
    entry = registry.add("m")
    running = await start(registry)
    async with raw_connection(running.port) as (_, writer):
        writer.write(post("/generate/m", b'{"prompt":"x","stream":%s}' % (b"true" if stream else b"false")))
        await entry.demanded.wait()
    await entry.withdrawn.wait()
    while 'ams_gateway_requests_held{model="m"} 0.0' not in await running.metrics():
        pass


FULL = ApiError("queue_full", "The queue is full.", retry_after=1)


def _full_at_first(times: int):
    """A pod whose queue is full for so many requests, as when all that were held come at once."""
    left = times

    async def behave(exchange: Exchange) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            await exchange.answer(429, FULL.body("/generate", "x"), Content_Type="application/json", Retry_After="1")
        else:
            await say_hello(exchange)

    return behave


async def test_what_was_held_waits_for_a_place_in_the_queue(start: Start, pod, registry: FakeRegistry) -> None:
    """A model that comes back is asked by all that waited for it in the same moment."""
    backend = await pod(_full_at_first(3))
    entry = registry.add("m")
    running = await start(registry)
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x"}))
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    assert (await request)[0] == 200
    assert len(backend.received) == 4
    assert 'ams_gateway_retries_total{model="m",reason="busy"} 3.0' in await running.metrics()


async def test_who_comes_while_the_backlog_is_answered_waits_too(
    start: Start, pod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = await pod(_full_at_first(0))
    entry = registry.add("m")
    running = await start(registry)
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x"}))
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    assert (await request)[0] == 200
    backend.behaviour = _full_at_first(2)
    assert (await running.post("/generate/m", {"prompt": "x"}))[0] == 200
    monkeypatch.setattr("ams_gateway.proxy.hold._BACKLOG_SECONDS", 0.0)
    backend.behaviour = _full_at_first(2)
    assert (await running.post("/generate/m", {"prompt": "x"}))[0] == 429


async def test_a_full_queue_is_told_to_whom_was_not_held_and_when_the_hold_is_over(
    start: Start, pod, registry: FakeRegistry
) -> None:
    backend = await pod(_full_at_first(1000))
    entry = registry.add("m", backend.address)
    running = await start(registry, hold_seconds=0.3)
    assert (await running.post("/generate/m", {"prompt": "x"}))[0] == 429
    assert len(backend.received) == 1
    entry.backends.clear()
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x"}))
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    status, answer, headers = await request
    assert (status, answer["details"]["code"], headers["Retry-After"]) == (429, "queue_full", "1")
    assert 1 < len(backend.received) < 6
