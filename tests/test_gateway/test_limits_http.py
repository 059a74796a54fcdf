"""Limits of keys as clients meet them: what is answered, what is refused, and what the headers say."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ams_common.keys import KeyFile
from openai import AsyncOpenAI, RateLimitError
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry
from test_gateway.redis_server import redis_server
from test_gateway.test_keys import TEAM, bearer, door_of, stored

StartPod = Callable[..., Awaitable[FakePod]]
PROMPT = {"prompt": "x" * 40, "max_new_tokens": 10}


async def limited(start: Start, registry: FakeRegistry, folder: Path, *, redis_url: str = "", **limits: Any) -> Running:
    door = door_of(folder, KeyFile(keys=(stored("team", TEAM, **limits),)))
    return await start(registry, door=door, redis_url=redis_url)


async def ask(running: Running, body: Any = PROMPT, path: str = "/generate/m") -> tuple[int, Any, Any]:
    return await running.post(path, body, headers=bearer(TEAM))


async def test_requests_a_minute(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    behind = await pod()
    registry.add("m", behind.address)
    running = await limited(start, registry, tmp_path, requests_per_minute=3)
    for left in (2, 1, 0):
        status, _, headers = await ask(running)
        assert (status, headers["X-RateLimit-Limit-Requests"]) == (200, "3")
        assert headers["X-RateLimit-Remaining-Requests"] == str(left)
    status, body, headers = await ask(running)
    assert (status, body["details"]["code"]) == (429, "rate_limited")
    assert 19 <= int(headers["Retry-After"]) <= 20
    assert 18_000 < int(headers["retry-after-ms"]) <= 20_000
    assert len(behind.received) == 3
    status, body, _ = await ask(running, {"model": "m", "messages": []}, "/v1/chat/completions")
    assert (status, body["error"]["code"], body["error"]["type"]) == (429, "rate_limited", "rate_limit_error")


async def test_what_was_asked_and_not_used_is_given_back(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("m", (await pod()).address)  # its answers come to five tokens
    running = await limited(start, registry, tmp_path, tokens_per_minute=60)
    for _ in range(1):
        assert (await ask(running, {"prompt": "x" * 80, "max_new_tokens": 40}))[0] == 200
    status, body, headers = await ask(running, {"prompt": "x" * 80, "max_new_tokens": 40})
    assert (status, body["details"]["code"]) == (429, "rate_limited")
    assert headers["X-RateLimit-Limit-Tokens"] == "60"


async def test_a_request_that_no_pod_got_costs_no_tokens(start: Start, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("m", "http://127.0.0.1:1")
    running = await limited(start, registry, tmp_path, tokens_per_minute=60)
    for _ in range(4):
        status, body, _ = await ask(running, {"prompt": "x" * 80, "max_new_tokens": 30})
        assert (status, body["details"]["code"]) == (503, "no_backend")


async def test_requests_at_once(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        await exchange.json(200, {"response": "a"}, X_AMS_Usage="prompt=3 completion=2")

    behind = await pod(slow)
    registry.add("m", behind.address)
    running = await limited(start, registry, tmp_path, concurrent_requests=2)
    held = [asyncio.create_task(ask(running)) for _ in range(2)]
    async with asyncio.timeout(5):
        while len(behind.received) < 2:  # noqa: ASYNC110  # a fake has no event for the second
            await asyncio.sleep(0.01)
    status, body, _ = await ask(running)
    assert (status, body["details"]["code"]) == (429, "rate_limited")
    release.set()
    assert [status for status, _, _ in await asyncio.gather(*held)] == [200, 200]
    assert (await ask(running))[0] == 200


async def test_places_of_clients_that_leave_and_of_pods_that_fail_are_free_again(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    async def fail(exchange: Exchange) -> None:
        if b"leave" in exchange.request.body:
            await exchange.until_client_is_gone()
        else:
            exchange.cut()

    behind = await pod(fail)
    registry.add("m", behind.address)
    running = await limited(start, registry, tmp_path, concurrent_requests=1)
    for _ in range(3):
        behind.got_request.clear()
        leaving = asyncio.create_task(ask(running, {"prompt": "leave"}))
        await behind.got_request.wait()
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        await behind.ended.acquire()
        assert (await ask(running, {"prompt": "cut"}))[0] in (502, 503)


async def test_the_months_tokens(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("m", (await pod()).address)
    running = await limited(start, registry, tmp_path, monthly_tokens=24)
    statuses = [(await ask(running, {"prompt": "x", "max_new_tokens": 4}))[0] for _ in range(5)]
    assert statuses == [200, 200, 200, 200, 200]  # the last one began with four of 24 tokens left
    status, body, headers = await ask(running, {"prompt": "x", "max_new_tokens": 4})
    assert (status, body["details"]["code"]) == (429, "token_limit")
    assert headers["X-Should-Retry"] == "false"
    assert int(headers["Retry-After"]) > 0


async def test_openais_client_waits_as_long_as_it_is_told(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("m", (await pod()).address)
    running = await limited(start, registry, tmp_path, requests_per_minute=1)
    client = AsyncOpenAI(base_url=running.url + "/v1", api_key=TEAM, max_retries=0)
    await client.completions.create(model="m", prompt="x")
    with pytest.raises(RateLimitError) as refused:
        await client.completions.create(model="m", prompt="x")
    assert refused.value.code == "rate_limited"
    assert 55 < float(refused.value.response.headers["retry-after-ms"]) / 1000 <= 60
    await client.close()


async def test_two_gateways_share_the_limits_of_a_key(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    registry.add("m", (await pod()).address)
    answers = Counter[int]()
    with redis_server(tmp_path) as redis:
        both = [
            await limited(start, registry, tmp_path / name, redis_url=redis.url, requests_per_minute=60)
            for name in ("one", "two")
        ]
        for _ in range(10):
            asked = [ask(both[number % 2]) for number in range(60)]
            answers.update(status for status, _, _ in await asyncio.gather(*asked))
    assert set(answers) == {200, 429}
    assert 60 <= answers[200] <= 62
