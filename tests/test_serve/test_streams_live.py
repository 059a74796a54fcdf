"""Streams of a real model: their events, their characters, their stop strings, and many of them at once."""

import asyncio
import json
from typing import Any

import pytest
from test_serve.live_pods import LiveGateway, LivePod, events, inside_gateway

ASKED = {"prompt": "describe the red house", "max_new_tokens": 60, "temperature": 0, "ignore_eos": True}


def _plain(gateway: LiveGateway, model: str, **fields: Any) -> Any:
    answer = gateway.client.post(f"/generate/{model}", ASKED | fields)
    assert answer.status == 200, answer.text
    return answer.json()


def _streamed(gateway: LiveGateway, model: str, **fields: Any) -> list[Any]:
    """The data of all events but the last, which is [DONE]."""
    answer = gateway.client.post(f"/generate/{model}", ASKED | fields | {"stream": True})
    assert answer.status == 200, answer.text
    found = events(answer.text)
    assert {kind for kind, _ in found} == {"message"}
    assert found[-1][1] == "[DONE]"
    return [data for _, data in found[:-1]]


def test_events_of_generate(gateway: LiveGateway) -> None:
    answer = gateway.client.post("/generate/tiny", ASKED | {"stream": True})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-AMS-Model"] == "tiny"
    assert answer.headers["X-Request-Id"]
    *pieces, last, done = [data for _, data in events(answer.text)]
    plain = _plain(gateway, "tiny")
    assert all(set(piece) == {"response"} and piece["response"] for piece in pieces)
    assert "".join(piece["response"] for piece in pieces) == plain["response"]
    assert last == plain | {"response": ""}
    assert (last["finish_reason"], last["usage"]["completion_tokens"]) == ("length", 60)
    assert done == "[DONE]"


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_deltas_add_up_to_the_plain_answer(gateway: LiveGateway, temperature: float) -> None:
    """A random model writes single bytes of characters: none may be split or lost."""
    beyond_ascii = 0
    for seed in range(20):
        sampled = {"seed": seed, "temperature": temperature, "max_new_tokens": 40}
        plain = _plain(gateway, "tiny", **sampled)
        pieces = [data["response"] for data in _streamed(gateway, "tiny", **sampled)]
        assert "".join(pieces) == plain["response"]
        assert not any("\ud800" <= character <= "\udfff" for character in plain["response"])
        beyond_ascii += not plain["response"].isascii()
    assert beyond_ascii > 10


def test_chat_deltas_add_up_too(gateway: LiveGateway) -> None:
    for seed in range(10):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": seed, "max_tokens": 40}
        plain = gateway.client.post("/v1/chat/completions", body).json()
        found = events(gateway.client.post("/v1/chat/completions", body | {"stream": True}).text)
        deltas = [data["choices"][0]["delta"].get("content") or "" for _, data in found[:-1]]
        assert "".join(deltas) == plain["choices"][0]["message"]["content"]


def test_stop_strings_never_leak(gateway: LiveGateway) -> None:
    whole = _plain(gateway, "tiny")["response"]
    for start in range(0, len(whole) - 4, 5):
        for length in (1, 2, 4):
            stop = whole[start : start + length]
            expected = whole[: whole.index(stop)]
            *pieces, last = _streamed(gateway, "tiny", stop=[stop, "never said at all"])
            assert "".join(piece["response"] for piece in pieces) == expected
            assert last["finish_reason"] == "stop"
    assert _plain(gateway, "tiny", stop=whole[10:14])["response"] == whole[: whole.index(whole[10:14])]


def test_a_stop_string_that_only_begins_is_part_of_the_answer(gateway: LiveGateway) -> None:
    whole = _plain(gateway, "tiny")["response"]
    pieces = _streamed(gateway, "tiny", stop=whole[-3:] + "and more")
    assert "".join(piece["response"] for piece in pieces) == whole


def test_a_reasoning_models_deltas_add_up_too(gateway: LiveGateway) -> None:
    """Plain and streamed agree for a model that knows the tags; that tags are split off is test_text_pieces'."""
    prompt = {"prompt": "why", "max_new_tokens": 30}
    for seed in range(10):
        plain = _plain(gateway, "reasoner", **prompt, seed=seed, temperature=1.5, include_thinking=True)
        pieces = _streamed(gateway, "reasoner", **prompt, seed=seed, temperature=1.5, include_thinking=True)
        assert "".join(piece["response"] for piece in pieces) == plain["response"]
        assert "".join(piece.get("thinking", "") for piece in pieces) == plain["thinking"]
        assert "<think>" not in plain["response"]


async def test_32_at_once_answer_as_each_alone(tiny: LivePod) -> None:
    prompts = [f"{'the cat and ' * (number % 7)}question {number}" for number in range(32)]
    async with inside_gateway(tiny) as gateway:

        async def ask(prompt: str, stream: bool) -> str:
            body = ASKED | {"prompt": prompt, "stream": stream, "max_new_tokens": 40 + len(prompt) % 9}
            async with gateway.client.post(gateway.url + "/generate/tiny", json=body) as response:
                assert response.status == 200
                if not stream:
                    return str((await response.json())["response"])
                found = events(await response.text())
                assert found[-1][1] == "[DONE]"
                return "".join(data["response"] for _, data in found[:-1])

        alone = [await ask(prompt, stream=False) for prompt in prompts]
        together = await asyncio.gather(*(ask(prompt, stream=True) for prompt in prompts))
    assert together == alone
    assert len(set(alone)) > 16
    assert tiny.load()["in_flight"] == 0


def test_a_stream_is_never_compressed(gateway: LiveGateway) -> None:
    answer = gateway.client.request(
        "POST", "/generate/tiny", json.dumps(ASKED | {"stream": True}).encode(), {"Accept-Encoding": "gzip"}
    )
    assert "Content-Encoding" not in answer.headers
    assert answer.text.endswith("data: [DONE]\n\n")
