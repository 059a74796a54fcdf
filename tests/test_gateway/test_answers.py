"""Answers that are kept and given again: to whom, for how long, and which never."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from ams_common.answer_cache import cache_key
from ams_gateway.answers.kept import KeptAnswer, Recorder
from ams_gateway.answers.store import MemoryStore
from ams_gateway.registry.port import KeepAnswers
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Behaviour, Exchange, FakePod, FakeRegistry
from test_gateway.redis_server import redis_server
from test_gateway.test_keys import KEYS, TEAM, bearer, door_of, stored

StartPod = Callable[..., Awaitable[FakePod]]
KEEP = KeepAnswers(3600.0, 1 << 20)
GREEDY = {"prompt": "hi", "temperature": 0}


def counting(version: str = "v1", **more: Any) -> Behaviour:
    """Answers with a number of its own each time."""
    numbers = itertools.count(1)

    async def behave(exchange: Exchange) -> None:
        number = next(numbers)
        if b'"stream": true' in exchange.request.body or b'"stream":true' in exchange.request.body:
            head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            await exchange.send(f"{head}X-AMS-Answer-Version: {version}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
            await exchange.chunk(f'data: {{"response": "{number}"}}\n\n'.encode())
            await asyncio.sleep(0)
            await exchange.chunk(b": usage prompt=3 completion=2\n\ndata: [DONE]\n\n")
            await exchange.end_stream()
            return
        headers = {"X_AMS_Usage": "prompt=3 completion=2", "X_AMS_Answer_Version": version}
        await exchange.json(200, {"response": str(number), **more}, **headers)

    return behave


async def answers(start: Start, pod: StartPod, registry: FakeRegistry, behaviour: Behaviour, *bodies: Any) -> list[Any]:
    """(what was found, the answer's number) of each request."""
    registry.add("m", (await pod(behaviour)).address, answers=KEEP)
    running = await start(registry)
    told = []
    for body in bodies:
        status, answer, headers = await running.post("/generate/m", body)
        assert status == 200
        told.append((headers.get("X-AMS-Cache"), answer["response"]))
    return told


async def test_the_same_question_gets_the_same_answer(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    told = await answers(start, pod, registry, counting(), GREEDY, {"temperature": 0, "prompt": "hi"}, GREEDY)
    assert told == [("miss", "1"), ("hit", "1"), ("hit", "1")]


@pytest.mark.parametrize(
    ("body", "kept"),
    [
        (GREEDY, True),
        ({"prompt": "hi", "seed": 7}, True),
        ({"prompt": "hi", "seed": 7, "temperature": 1.5}, True),
        ({"prompt": "hi"}, False),
        ({"prompt": "hi", "temperature": 0.7}, False),
        ({"prompt": "hi", "seed": None}, False),
        ({"prompt": "hi", "temperature": False}, False),
        ({"prompt": "hi", "temperature": 0, "image": "https://example.com/a.png"}, False),
        ({"prompt": "see https://example.com", "temperature": 0}, True),
        ({"temperature": 0, "messages": [{"content": [{"image_url": {"url": "HTTP://example.com/a"}}]}]}, False),
        ({"temperature": 0, "messages": [{"content": [{"image_url": {"url": "data:image/png;base64,AA"}}]}]}, True),
    ],
)
def test_which_requests_are_answered_alike(body: Any, kept: bool) -> None:
    key = cache_key(model="m", key_id="k", target="/generate", body=json.dumps(body).encode())
    assert (key is not None) is kept


def test_what_tells_answers_apart() -> None:
    base = {"model": "m", "key_id": "k", "target": "/generate", "body": b'{"temperature":0,"prompt":"a"}'}
    same = {**base, "body": b'{ "prompt": "a", "temperature": 0 }'}
    others = [
        {**base, "model": "n"}, {**base, "key_id": "l"}, {**base, "target": "/v1/completions"},
        {**base, "body": b'{"temperature":0,"prompt":"b"}'},
        {**base, "body": b'{"temperature":0,"prompt":"a","top_k":1}'},
        {**base, "model": "mk", "key_id": ""},
    ]  # fmt: skip
    keys = [cache_key(**each) for each in (base, *others)]  # type: ignore[arg-type]
    assert cache_key(**same) == keys[0]  # type: ignore[arg-type]
    assert len(set(keys)) == len(keys)
    assert cache_key(model="m", key_id="k", target="/", body=b"[" * 1000) is None


async def test_nothing_is_kept_where_it_is_not_asked_for(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod(counting())).address)
    running = await start(registry)
    for number in ("1", "2"):
        _, answer, headers = await running.post("/generate/m", GREEDY)
        assert (answer["response"], "X-AMS-Cache" in headers) == (number, False)


async def test_streams_are_given_again_too(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    registry.add("m", (await pod(counting())).address, answers=KEEP)
    running = await start(registry)
    bodies = []
    for found in ("miss", "hit", "hit"):
        async with running.client.post(running.url + "/generate/m", json=GREEDY | {"stream": True}) as response:
            assert response.headers["X-AMS-Cache"] == found
            assert response.headers["Content-Type"].startswith("text/event-stream")
            assert response.headers["X-Request-Id"]
            bodies.append(await response.read())
    assert set(bodies) == {b'data: {"response": "1"}\n\ndata: [DONE]\n\n'}
    _, answer, headers = await running.post("/generate/m", GREEDY)  # whole: another answer
    assert (answer["response"], headers["X-AMS-Cache"]) == ("2", "miss")
    await running.gateway.close()
    assert [line.get("completion_tokens") for line in running.log] == [2, 2, 2, 2]
    assert [line["answer_cache"] for line in running.log] == ["miss", "hit", "hit", "miss"]
    assert 'ams_gateway_answer_cache_total{model="m",result="hit"} 2.0' in await running.metrics()


async def test_another_version_of_the_weights_answers_anew(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    first = await pod(counting("v1"))
    registry.add("m", first.address, answers=KEEP)
    running = await start(registry)
    await running.post("/generate/m", GREEDY)
    assert (await running.post("/generate/m", GREEDY))[2]["X-AMS-Cache"] == "hit"
    registry.add("m", (await pod(counting("v2"))).address, answers=KEEP)
    for found in ("miss", "hit"):
        assert (await running.post("/generate/m", GREEDY))[2]["X-AMS-Cache"] == found


async def test_nobody_gets_the_answer_of_another_key(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Any
) -> None:
    door = door_of(tmp_path, type(KEYS)(keys=(*KEYS.keys, stored("two", "ams-key-two"))))
    registry.add("qwen", (await pod(counting())).address, answers=KEEP)
    running = await start(registry, door=door)
    found = [
        (await running.post("/generate/qwen", GREEDY, headers=bearer(key)))[2]["X-AMS-Cache"]
        for key in (TEAM, "ams-key-two", TEAM, "ams-key-two")
    ]
    assert found == ["miss", "miss", "hit", "hit"]


async def cut_off(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-AMS-Answer-Version: v\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    await exchange.chunk(b'data: {"response": "a"}\n\n')
    exchange.cut()


async def failing(exchange: Exchange) -> None:
    await exchange.json(500, {"error": "no", "details": {"code": "generation_failed"}}, X_AMS_Answer_Version="v")


async def without_version(exchange: Exchange) -> None:
    await exchange.json(200, {"response": "a"})


async def in_tatters(exchange: Exchange) -> None:
    await exchange.json(200, {"response": "a"}, X_AMS_Answer_Version="../x")


async def error_in_stream(exchange: Exchange) -> None:
    await exchange.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-AMS-Answer-Version: v\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    await exchange.chunk(b'event: error\ndata: {"error": "no"}\n\n')
    await exchange.end_stream()


@pytest.mark.parametrize(
    "behaviour",
    [cut_off, failing, without_version, in_tatters, error_in_stream, counting(degraded="cpu")],
    ids=["cut", "failed", "no version", "odd version", "error in stream", "degraded"],
)
async def test_what_is_no_whole_good_answer_is_not_kept(
    start: Start, pod: StartPod, registry: FakeRegistry, behaviour: Behaviour
) -> None:
    behind = await pod(behaviour)
    registry.add("m", behind.address, answers=KEEP)
    running = await start(registry)
    for _ in range(2):
        async with running.client.post(running.url + "/generate/m", json=GREEDY) as response:
            assert response.headers["X-AMS-Cache"] == "miss"
            await response.read()
    assert len(behind.received) >= 2


def kept(size: int) -> KeptAnswer:
    return KeptAnswer(body=b"x" * size, headers={})


async def test_the_least_recently_used_go_first() -> None:
    now = [0.0]
    store = MemoryStore(lambda: now[0])
    for key in "abc":
        await store.put("m", key, kept(500), seconds=10, most_bytes=3000)
    assert await store.get("m", "a") is not None
    await store.put("m", "d", kept(500), seconds=10, most_bytes=3000)
    assert [await store.get("m", key) is not None for key in "abcd"] == [True, False, True, True]
    await store.put("m", "huge", kept(5000), seconds=10, most_bytes=3000)
    assert store.size == 3000
    now[0] = 10.0
    assert [await store.get("m", key) for key in "acd"] == [None, None, None]
    assert store.size == 0
    await store.put("n", "a", kept(1), seconds=10, most_bytes=3000)
    store.keep_only({"m"})
    assert await store.get("n", "a") is None


def test_a_recorder_gives_up_on_long_answers_and_on_those_that_did_not_end() -> None:
    recorder = Recorder(10)
    recorder.begin(200, {}, "v", stream=False)
    recorder.feed(b"12345")
    assert recorder.take("") is None
    recorder.end()
    taken = recorder.take("u")
    assert taken is not None
    assert (taken.body, taken.usage) == (b"12345", "u")
    recorder.feed(b"678901")
    recorder.end()
    assert recorder.take("") is None


async def test_what_one_gateway_keeps_another_finds(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Any
) -> None:
    registry.add("m", (await pod(counting())).address, answers=KEEP)
    with redis_server(tmp_path) as redis:
        one, two = [await start(registry, redis_url=redis.url) for _ in range(2)]
        for running, stream, found in (
            (one, False, "miss"),
            (two, False, "hit"),
            (one, True, "miss"),
            (two, True, "hit"),
        ):
            body = GREEDY | {"stream": stream}
            async with running.client.post(running.url + "/generate/m", json=body) as response:
                assert (response.headers["X-AMS-Cache"], bool(await response.read())) == (found, True)
        redis.kill()
        assert (await one.post("/generate/m", GREEDY | {"stream": False}))[2]["X-AMS-Cache"] == "hit"
        assert (await two.post("/generate/m", GREEDY | {"stream": False, "top_k": 1}))[2]["X-AMS-Cache"] == "miss"


async def test_what_else_lies_in_redis_is_no_answer(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    registry.add("m", (await pod(counting())).address, answers=KEEP)
    with redis_server(tmp_path) as redis:
        one, two = [await start(registry, redis_url=redis.url) for _ in range(2)]
        await one.post("/generate/m", GREEDY)
        await two.post("/generate/m", {**GREEDY, "top_k": 2})  # now it knows what the pod's answers depend on
        client = redis.client()
        key = next(
            key
            for key in client.keys("*answer*")
            if b'"1"' in msgspec.json.decode(client.get(key), type=KeptAnswer).body
        )
        poisoned = KeptAnswer(
            body=b"<script>", headers={"Content-Type": "text/html", "Set-Cookie": "a=b", "X-AMS-Usage": "a\r\nb: c"}
        )
        client.set(key, msgspec.json.encode(poisoned))
        async with two.client.post(two.url + "/generate/m", json=GREEDY) as response:
            assert (response.status, response.headers["X-AMS-Cache"]) == (200, "hit")
            assert response.content_type == "application/octet-stream"
            assert "Set-Cookie" not in response.headers
            assert "b" not in response.headers
        client.set(key, b"[[[")
        status, _, headers = await two.post("/generate/m", GREEDY)
        assert (status, headers["X-AMS-Cache"]) == (200, "miss")
    caplog.clear()
