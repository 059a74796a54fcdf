"""Turns of a conversation go to the pod that read its beginning, unless that pod has too much to do."""

import json
from collections import Counter
from typing import Any

import pytest
from ams_gateway.proxy.affinity import conversation_of
from ams_gateway.proxy.decisions import choose_backend
from ams_gateway.registry.port import Backend
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import FakeRegistry, say_hello

SYSTEM = {"role": "system", "content": "Be brief."}


def chat(*turns: str, **fields: Any) -> bytes:
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(turns)]
    return json.dumps({"model": "m", "messages": [SYSTEM, *messages]} | fields).encode()


def pods(*in_flight: int) -> list[Backend]:
    return [Backend(f"pod-{number}", f"http://{number}", in_flight=count) for number, count in enumerate(in_flight)]


def chosen(backends: list[Backend], body: bytes, *, key: str = "", tried: tuple[str, ...] = ()) -> str:
    found = choose_backend(backends, tried, 0.0, 0.0, lambda: conversation_of(body, key))
    assert found is not None
    return found.id


def test_all_turns_of_a_conversation_are_one() -> None:
    numbers = {conversation_of(chat(*["hello", "Hi!", "and then?", "This."][:count]), "") for count in (1, 3, 4)}
    assert len(numbers) == 1
    assert conversation_of(chat("hullo"), "") not in numbers
    assert conversation_of(chat("hello"), "key") not in numbers


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ({"prompt": "Once upon a time" * 200}, {"prompt": "Once upon a time" * 300}, {"prompt": "Twice"}),
        ({"input": "hello"}, {"input": "hello", "stream": True}, {"input": "bye"}),
        (
            {"instructions": "a", "input": [{"role": "user", "content": "x"}]},
            {"instructions": "a", "input": [{"role": "user", "content": "x"}, {"type": "function_call"}]},
            {"instructions": "b", "input": [{"role": "user", "content": "x"}]},
        ),
        (
            {"system": "a", "messages": [{"role": "user", "content": "x"}]},
            {"system": "a", "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            {"system": "b", "messages": [{"role": "user", "content": "x"}]},
        ),
        (  # a response, and one that goes on from it
            {"input": "x", "instructions": "i"},
            {
                "previous_items": [{"role": "user", "content": "x"}, {"type": "message"}],
                "input": "y",
                "instructions": "i",
            },
            {"input": "y", "instructions": "i"},
        ),
        (  # Claude Code moves its marks with each turn, and has another bill each time
            {
                "system": [
                    {"type": "text", "text": "x-anthropic-billing-header: cch=1;"},
                    {"type": "text", "text": "s"},
                ],
                "messages": [{"role": "user", "content": [{"text": "x", "cache_control": {"type": "ephemeral"}}]}],
            },
            {
                "system": [
                    {"type": "text", "text": "x-anthropic-billing-header: cch=2;"},
                    {"type": "text", "text": "s"},
                ],
                "messages": [{"role": "user", "content": [{"text": "x"}]}, {"role": "assistant", "content": "y"}],
            },
            {"system": [{"type": "text", "text": "s"}], "messages": [{"role": "user", "content": [{"text": "y"}]}]},
        ),
        (
            {"prompt_cache_key": "k", "messages": [{"role": "user", "content": "x"}]},
            {"prompt_cache_key": "k", "messages": [{"role": "user", "content": "y"}]},
            {"prompt_cache_key": "l", "messages": [{"role": "user", "content": "x"}]},
        ),
    ],
)
def test_every_api_says_which_conversation_it_is(
    one: dict[str, Any], same: dict[str, Any], other: dict[str, Any]
) -> None:
    number, alike, unlike = (
        conversation_of(json.dumps(body, separators=(",", ":")).encode(), "") for body in (one, same, other)
    )
    assert number is not None
    assert alike == number
    assert unlike != number


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"messages": 3',
        b'{"messages": {"a": 1}}',
        b'{"messages": [1, 2]}',
        b'{"input": null}',
    ],
)
def test_what_makes_no_sense_is_the_pods_to_refuse(body: bytes) -> None:
    """It belongs to no conversation, or to one of its own, and nothing is raised."""
    assert conversation_of(body, "") != conversation_of(chat("hello"), "")


def test_conversations_spread_over_idle_pods_and_stay() -> None:
    backends = pods(0, 0, 0, 0)
    first = {number: chosen(backends, chat(f"question {number}")) for number in range(400)}
    counts = Counter(first.values())
    assert set(counts) == {"pod-0", "pod-1", "pod-2", "pod-3"}
    assert min(counts.values()) > 60
    assert first == {number: chosen(backends, chat(f"question {number}", "a", "b")) for number in range(400)}


def test_a_pod_that_goes_moves_only_its_own() -> None:
    backends = pods(0, 0, 0, 0)
    before = {number: chosen(backends, chat(f"question {number}")) for number in range(200)}
    after = {number: chosen(backends[:3], chat(f"question {number}")) for number in range(200)}
    assert all(after[number] == pod for number, pod in before.items() if pod != "pod-3")


def test_a_pod_with_too_much_to_do_is_passed_over_for_the_next_of_the_conversation() -> None:
    body = chat("hello")
    idle = pods(0, 0, 0)
    own = chosen(idle, body)
    busy = pods(0, 0, 0)
    next(backend for backend in busy if backend.id == own).in_flight = 4
    second = chosen(busy, body)
    assert second != own
    assert second == chosen([backend for backend in idle if backend.id != own], body)
    for backend in busy:
        backend.in_flight = 4
    assert chosen(busy, body) == own


def test_one_system_prompt_for_all_does_not_crowd_one_pod() -> None:
    backends = pods(0, 0, 0)
    for _ in range(30):
        body = json.dumps({"model": "m", "prompt_cache_key": "all"}).encode()
        pod = chosen(backends, body)
        next(backend for backend in backends if backend.id == pod).in_flight += 1
    assert max(backend.in_flight for backend in backends) <= 13


def test_a_pod_that_failed_for_this_request_is_not_asked_again() -> None:
    body, backends = chat("hello"), pods(0, 0)
    own = chosen(backends, body)
    assert chosen(backends, body, tried=(own,)) != own


def test_with_one_pod_nobody_asks() -> None:
    def never() -> int:
        raise AssertionError

    assert choose_backend(pods(3), (), 0.0, 0.0, never) is not None


async def test_turns_arrive_at_one_pod(start: Start, pod: Any, registry: FakeRegistry) -> None:
    """Of three, through the gateway; other conversations at others."""
    backends = [await pod(say_hello) for _ in range(3)]
    registry.add("m", *(each.address for each in backends))
    running = await start(registry)
    for number in range(12):
        for turns in (("q",), ("q", "a", "next"), ("q", "a", "next", "b", "last")):
            body = json.loads(chat(f"{number} {turns[0]}", *turns[1:]))
            assert (await running.post("/v1/chat/completions", body))[0] == 200
    places: dict[str, set[int]] = {}
    for place, backend in enumerate(backends):
        for received in backend.received:
            first = json.loads(received.body)["messages"][1]["content"]
            places.setdefault(first, set()).add(place)
    assert len(places) == 12
    assert all(len(each) == 1 for each in places.values())
    assert sum(bool(backend.received) for backend in backends) > 1
