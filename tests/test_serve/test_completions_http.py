"""Several answers, logprobs, echo, infilling, prefill and thinking's switches, on both of OpenAI's routes."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from ams_common.request_usage import parse_usage
from test_serve.test_tools_http import ASK, chat, events, pod, refused


async def complete(running: Any, **fields: Any) -> Any:
    status, body = await running.post("/v1/completions", {"model": "echo"} | fields)
    assert status == 200, body
    return body


async def refused_text(running: Any, **fields: Any) -> str:
    status, body = await running.post("/v1/completions", {"model": "echo"} | fields)
    assert status == 400, body
    return str(body["error"]["message"])


async def test_each_prompt_has_its_answers_in_order(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        body = await complete(running, prompt=["ab", "c"], n=2, seed=2**63 - 1)
        assert [(each["index"], each["text"]) for each in body["choices"]] == [(0, "ab"), (1, "ab"), (2, "c"), (3, "c")]
        assert body["usage"]["prompt_tokens"] == 3
        assert body["usage"]["completion_tokens"] == 6
        assert [each.sampling.seed for each in running.engine.tickets] == [2**63 - 1, -(2**63)] * 2
        body = await complete(running, prompt=[[97, 98], [99]])
        assert [each["text"] for each in body["choices"]] == ["ab", "c"]
        chunks = await events(
            running, "/v1/completions", prompt=["ab", "c"], n=2, stream_options={"include_usage": True}
        )
        texts = dict.fromkeys(range(4), "")
        for chunk in chunks[:-1]:
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
        assert texts == {0: "ab", 1: "ab", 2: "c", 3: "c"}
        assert chunks[-1]["usage"]["prompt_tokens"] == 3
        assert [chunk["choices"][0]["index"] for chunk in chunks[:-1] if chunk["choices"][0]["finish_reason"]] != []
        body = await chat(running, n=3)
        assert [each["index"] for each in body["choices"]] == [0, 1, 2]
        chunks = await events(running, n=2)
        assert {chunk["choices"][0]["index"] for chunk in chunks} == {0, 1}


async def test_what_a_request_used_counts_its_prompt_once(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        body = {"model": "echo", "prompt": "abc", "n": 3}
        async with running.client.post(running.url + "/v1/completions", json=body) as response:
            assert parse_usage(response.headers["X-AMS-Usage"].encode()).prompt_tokens == 3


async def test_when_one_answer_fails_none_goes_on(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.hold = True
        asking = asyncio.ensure_future(running.post("/v1/completions", {"model": "echo", "prompt": "ab", "n": 3}))
        while len(running.engine.tickets) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        running.engine.error = RuntimeError("broken")
        running.engine.answer(running.engine.tickets[0])
        status, _ = await asking
        assert status == 500
        assert [each.cancelled for each in running.engine.tickets[1:]] == [True, True]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"prompt": ["a"] * 129}, "at most 128 prompts"),
        ({"prompt": ["a"] * 65, "n": 2}, "more than 128 answers"),
        ({"prompt": "a", "n": 129}, "n"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of: must be at least n"),
        ({"prompt": "a", "best_of": 2, "stream": True}, "best_of: can't be streamed"),
        ({"prompt": ["a", [1]]}, None),
        ({"prompt": ["a", 1]}, "prompt: expected"),
        ({"prompt": ["a", ""]}, "prompt must not be empty"),
        ({"prompt": "a", "suffix": "b"}, "suffix: this model was not made"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
    ],
)
async def test_what_is_too_much_is_refused(tmp_path: Path, fields: Any, sentence: str | None) -> None:
    async with pod(tmp_path) as running:
        if sentence is None:
            await complete(running, **fields)
        else:
            assert sentence in await refused_text(running, **fields)


async def test_logprobs_of_a_chat(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = "aé"
        (choice,) = (await chat(running, logprobs=True, top_logprobs=2))["choices"]
        assert choice["logprobs"]["content"][1] == {
            "token": "é",
            "logprob": -0.5,
            "bytes": [0xC3, 0xA9],
            "top_logprobs": [
                {"token": "é", "logprob": -0.5, "bytes": [0xC3, 0xA9]},
                {"token": "ê", "logprob": -1.5, "bytes": [0xC3, 0xAA]},
            ],
        }
        chunks = await events(running, logprobs=True)
        told = [each for chunk in chunks for each in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
        assert [each["token"] for each in told] == ["a", "é"]
        assert (await chat(running))["choices"][0]["logprobs"] is None
        assert "only with logprobs" in await refused(running, top_logprobs=2)
        body = await chat(running, prompt_logprobs=1)
        assert body["prompt_logprobs"][0] is None
        first = body["prompt_logprobs"][1]
        assert first == {str(ord("s")): {"logprob": -0.5, "rank": 1, "decoded_token": "s"}}


async def test_logprobs_of_a_text_and_of_its_prompt(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = "cd"
        (choice,) = (await complete(running, prompt="ab", logprobs=1, echo=True, max_tokens=1))["choices"]
        assert choice["text"] == "abc"
        assert choice["logprobs"] == {
            "tokens": ["a", "b", "c"],
            "token_logprobs": [None, -0.5, -0.5],
            "top_logprobs": [None, {"b": -0.5}, {"c": -0.5}],
            "text_offset": [0, 1, 2],
        }
        (choice,) = (await complete(running, prompt=[[97, 98]], logprobs=1, echo=True, max_tokens=0))["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("ab", "length")
        assert choice["logprobs"]["tokens"] == ["a", "b"]
        (choice,) = (await complete(running, prompt="ab", logprobs=0))["choices"]
        assert choice["logprobs"]["text_offset"] == [0, 1]
        assert choice["logprobs"]["top_logprobs"] == [{"c": -0.5}, {"d": -0.5}]
        chunks = await events(running, "/v1/completions", prompt="ab", logprobs=0, echo=True)
        told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
        assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "abcd"
        assert [token for each in told for token in each["tokens"]] == ["a", "b", "c", "d"]
        assert [offset for each in told for offset in each["text_offset"]] == [0, 1, 2, 3]
        (choice,) = (await complete(running, prompt="ab", prompt_logprobs=0))["choices"]
        assert [*choice["prompt_logprobs"][1]] == [str(ord("b"))]


async def test_nothing_is_told_where_the_engine_tells_none(tmp_path: Path) -> None:
    async with pod(tmp_path, "raw-prompts") as running:
        assert "tells none" in await refused(running, logprobs=True)
        assert "tells none" in await refused_text(running, prompt="a", logprobs=0)
        assert "tells none" in await refused_text(running, prompt="a", best_of=2)


async def test_of_the_best_the_likeliest_are_told(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        body = await complete(running, prompt=["ab", "c"], n=1, best_of=3)
        assert [each["index"] for each in body["choices"]] == [0, 1]
        assert len(running.engine.tickets) == 6
        assert body["usage"]["completion_tokens"] == 9


async def test_an_answer_goes_between(tmp_path: Path) -> None:
    tokens = {"<|fim_prefix|>": 1, "<|fim_suffix|>": 2, "<|fim_middle|>": 3}
    async with pod(tmp_path) as running:
        running.engine.info = type(running.engine.info)(
            **{name: getattr(running.engine.info, name) for name in running.engine.info.__slots__}
            | {"added_tokens": tokens}
        )
        body = await complete(running, prompt="def f(", suffix="return")
        assert body["choices"][0]["text"] == "<|fim_prefix|>def f(<|fim_suffix|>return<|fim_middle|>"


async def test_sampling_by_tokens_reaches_the_engine(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        await chat(running, min_tokens=3, stop_token_ids=[5], allowed_token_ids=[6, 7])
        sampling = running.engine.tickets[-1].sampling
        assert (sampling.min_new_tokens, sampling.stop_tokens, sampling.allowed_tokens) == (3, (5,), (6, 7))


async def test_what_stopped_the_answer_may_stay(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = "one two three"
        (choice,) = (await chat(running, stop="two", include_stop_str_in_output=True))["choices"]
        assert choice["message"]["content"] == "one two"


PREFILL = [*ASK, {"role": "assistant", "content": "It is"}]


async def test_an_answer_may_go_on_from_a_message(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        for fields in (
            {"continue_final_message": True, "add_generation_prompt": False, "messages": PREFILL},
            {"messages": [*ASK, PREFILL[1] | {"prefix": True}]},
            {"messages": [*ASK, PREFILL[1] | {"partial": True}]},
        ):
            await chat(running, **fields)
            assert running.engine.options[-1].continue_last
        await chat(running, messages=PREFILL)
        assert not running.engine.options[-1].continue_last
        assert "must be a text of the assistant" in await refused(running, continue_final_message=True)
        assert "false only with" in await refused(running, add_generation_prompt=False)
        assert "must be false" in await refused(
            running, messages=PREFILL, continue_final_message=True, add_generation_prompt=True
        )


QWEN = "{% if enable_thinking is defined and enable_thinking is false %}x{% endif %} thinking {{ 'thinking' }}"
EFFORT = "{{ reasoning_effort }}{{ message.thinking }}"


@pytest.mark.parametrize(
    ("template", "fields", "arguments", "closed", "ignored"),
    [
        (QWEN, {"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}, False, ""),
        (QWEN, {"reasoning_effort": "none"}, {"enable_thinking": False}, False, ""),
        (QWEN, {"think": False}, {"enable_thinking": False}, False, ""),
        (QWEN, {"enable_thinking": True}, {"enable_thinking": True}, False, ""),
        (QWEN, {"thinking": {"type": "disabled"}}, {"enable_thinking": False}, False, ""),
        (QWEN, {"reasoning": {"enabled": False}}, {"enable_thinking": False}, False, ""),
        (QWEN, {"reasoning_effort": "high"}, {}, False, "reasoning_effort"),
        (QWEN, {"reasoning_effort": "medium"}, {}, False, ""),
        (QWEN, {"chat_template_kwargs": {"colour": 1}}, {}, False, "chat_template_kwargs.colour"),
        (EFFORT, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}, False, ""),
        (EFFORT, {"think": "high"}, {"reasoning_effort": "high"}, False, ""),
        (EFFORT, {"reasoning_effort": "none"}, {}, True, ""),
        ("", {"chat_template_kwargs": {"enable_thinking": False}}, {}, True, ""),
        ("", {"thinking": False}, {}, True, ""),
        ("{% if thinking %}", {"think": False}, {"thinking": False}, False, ""),
    ],
)
async def test_thinking_has_switches(
    tmp_path: Path, template: str, fields: Any, arguments: Any, closed: bool, ignored: str
) -> None:
    async with pod(tmp_path, "raw-prompts", "reasoning", template=template) as running:
        body = {"model": "echo", "messages": ASK} | fields
        async with running.client.post(running.url + "/v1/chat/completions", json=body) as response:
            assert response.status == 200
            assert response.headers.get("X-AMS-Ignored-Fields", "") == ignored
        options = running.engine.options[-1]
        assert (options.template_arguments, options.no_thinking) == (arguments, closed)


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "messages", "tools", "bos_token", "return_dict"])
async def test_arguments_of_our_own_are_no_template_arguments(tmp_path: Path, name: str) -> None:
    async with pod(tmp_path, template="{{ " + name + " }}") as running:
        assert "is no argument" in await refused(running, chat_template_kwargs={name: "x"})
        assert "say the opposite" in await refused(running, think=True, enable_thinking=False)


async def test_thoughts_may_be_left_out(tmp_path: Path) -> None:
    async with pod(tmp_path, "raw-prompts", "reasoning") as running:
        running.engine.says = "<think>hm</think>Sunny."
        (choice,) = (await chat(running))["choices"]
        assert choice["message"]["reasoning_content"] == "hm"
        for fields in ({"include_reasoning": False}, {"reasoning": {"exclude": True}}):
            (choice,) = (await chat(running, **fields))["choices"]
            assert choice["message"] == {"role": "assistant", "content": "Sunny."}
            deltas = [chunk["choices"][0]["delta"] for chunk in await events(running, **fields)]
            assert not any("reasoning" in delta for delta in deltas)


async def test_a_service_tier_is_told_again(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        assert (await chat(running, service_tier="auto"))["service_tier"] == "auto"
        assert "service_tier" not in await chat(running)
