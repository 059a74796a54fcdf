"""What pods tell of requests whose end no gateway heard."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ams_common.request_usage import RequestUsage
from ams_common.undelivered import USAGE_PATH, UndeliveredUsages
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.proxy.upstream import Pools
from ams_gateway.registry.port import Backend, Model
from ams_gateway.usage.plausible import plausible
from ams_gateway.usage.port import Entry, Outcome
from ams_gateway.usage.undelivered import DIRECT, UNKNOWN, UndeliveredCollector
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry

StartPod = Callable[..., Awaitable[FakePod]]


class Taker:
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)

    def name_of(self, key_id: str) -> str | None:
        return {"jwt:ann": "ann"}.get(key_id)


def collector(registry: FakeRegistry, taker: Taker) -> UndeliveredCollector:
    pools = Pools(registry)

    async def ask(backend: Backend) -> UndeliveredUsages | None:
        try:
            return await PodClient(pools.of(backend)).fetch_json("POST", USAGE_PATH, UndeliveredUsages)
        except PodUnavailable:
            return None

    def pods() -> list[tuple[Model, Backend]]:
        return [(model, backend) for model in registry.models() for backend in registry.backends(model)]

    return UndeliveredCollector(pods, ask, taker, lambda: {"k-1": "team-a"})


def told(key_id: str = "k-1", **numbers: Any) -> dict[str, Any]:
    return {"request_id": "r", "key_id": key_id, "prompt_tokens": 5, "completion_tokens": 2} | numbers


def answers(*documents: Any) -> Callable[[Exchange], Awaitable[None]]:
    waiting = list(documents)

    async def behave(exchange: Exchange) -> None:
        await exchange.json(200, waiting.pop(0) if waiting else {"usage": []})

    return behave


async def test_each_pod_is_asked_until_it_has_no_more(pod: StartPod, registry: FakeRegistry) -> None:
    behind = await pod(
        answers({"usage": [told()], "more": True}, {"usage": [told("jwt:ann"), told("k-other"), told("")]})
    )
    registry.add("m", behind.address, context_tokens=100)
    taker = Taker()
    await collector(registry, taker).collect(None)
    assert [received.method + received.target for received in behind.received] == ["POST" + USAGE_PATH] * 2
    assert [(entry.key_id, entry.key_name) for entry in taker.entries] == [
        ("k-1", "team-a"), ("jwt:ann", "ann"), (UNKNOWN, UNKNOWN), ("", DIRECT),
    ]  # fmt: skip
    assert all((entry.late, entry.outcome, entry.model) == (True, Outcome.CUT, "m") for entry in taker.entries)


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {"usage": [told(prompt_tokens=-1)]},
        {"usage": [told(compute_seconds=1e300)]},
        {"usage": [told("k" * 1000)]},
        {"usage": [told()] * 1001},
        {"usage": "x" * 1000},
    ],
)
async def test_answers_that_are_none_are_dropped(pod: StartPod, registry: FakeRegistry, answer: Any) -> None:
    registry.add("m", (await pod(answers(answer))).address, "http://127.0.0.1:1")
    taker = Taker()
    await collector(registry, taker).collect(None)
    assert taker.entries == []


async def test_a_pod_that_always_has_more_is_left(pod: StartPod, registry: FakeRegistry) -> None:
    async def endless(exchange: Exchange) -> None:
        await exchange.json(200, {"usage": [told(prompt_tokens=10**12)], "more": True})

    registry.add("m", (await pod(endless)).address, context_tokens=100)
    taker = Taker()
    await collector(registry, taker).collect(None)
    assert len(taker.entries) == 20
    assert taker.entries[0].usage.prompt_tokens == 100


def test_no_request_used_more_than_it_can_have() -> None:
    model = Model("m", context_tokens=100, request_timeout_seconds=10)
    most = RequestUsage(
        prompt_tokens=10**12, completion_tokens=10**12, cached_tokens=10**12, media=10**9, compute_seconds=1e9
    )
    assert plausible(most, model) == RequestUsage(
        prompt_tokens=100, completion_tokens=100, cached_tokens=100, media=10_000, compute_seconds=70
    )
    little = RequestUsage(prompt_tokens=3, completion_tokens=2, cached_tokens=1, media=1, compute_seconds=0.5)
    assert plausible(little, Model("m")) == little


async def test_a_pod_whose_answer_was_cut_is_asked_soon(
    pod: StartPod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ams_gateway.usage.undelivered._SOON_SECONDS", 0.1)
    monkeypatch.setattr("ams_gateway.usage.undelivered._EVERY_SECONDS", 3.0)
    one, two = await pod(answers()), await pod(answers())
    registry.add("m", one.address, two.address)
    asking = collector(registry, Taker())
    await asking.start()
    try:
        await until(lambda: (len(one.received), len(two.received)) == (1, 1))  # when the gateway starts
        asking.was_cut("m-0")
        await until(lambda: len(one.received) == 2)
        assert len(two.received) == 1
        await until(lambda: len(two.received) == 2)
    finally:
        await asking.close()


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
