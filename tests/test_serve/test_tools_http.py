"""Tools on /v1/chat/completions: what the model is told, what its answer becomes, and what is refused."""

import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from test_serve.echo_pod import EchoPod, echo_pod

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
OTHER = {"type": "function", "function": {"name": "now"}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
ASK = [{"role": "user", "content": "Weather?"}]
HERMES = "{% for t in tools %}<tool_call>{% endfor %}"
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sunny"}


@asynccontextmanager
async def pod(folder: Path, *features: str, template: str = HERMES, **settings: Any) -> AsyncIterator[EchoPod]:
    info = {"chat_template": template}
    made: Any = features or ("raw-prompts", "tools", "constraints", "logprobs")
    async with echo_pod(folder, "text", info=info, features=made, **settings) as running:
        running.engine.finish = "stop"
        yield running


async def chat(running: EchoPod, **fields: Any) -> Any:
    status, body = await running.post("/v1/chat/completions", {"model": "echo", "messages": ASK} | fields)
    assert status == 200, body
    return body


async def refused(running: EchoPod, **fields: Any) -> str:
    status, body = await running.post("/v1/chat/completions", {"model": "echo", "messages": ASK} | fields)
    assert status == 400, body
    return str(body["error"]["message"])


async def events(running: EchoPod, path: str = "/v1/chat/completions", **fields: Any) -> list[Any]:
    body = {"model": "echo", "stream": True} | ({"messages": ASK} if "chat" in path else {}) | fields
    data, headers = io.BytesIO(json.dumps(body).encode()), {"Content-Type": "application/json"}
    async with running.client.post(running.url + path, data=data, headers=headers) as response:
        assert response.status == 200
        lines = (await response.text()).split("\n")
    found = [line[6:] for line in lines if line.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(line) for line in found]


async def test_an_answer_may_be_calls(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = f"I look.\n\n{CALL}\n{CALL}"
        (choice,) = (await chat(running, tools=[TOOL]))["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] == "I look."
        first, second = choice["message"]["tool_calls"]
        assert first["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
        assert first["type"] == "function"
        assert re.fullmatch("call_[0-9a-f]{24}", first["id"])
        assert first["id"] != second["id"]
        assert running.engine.options[-1].tools == (TOOL,)
        (choice,) = (await chat(running, tools=[TOOL], parallel_tool_calls=False))["choices"]
        assert len(choice["message"]["tool_calls"]) == 1
        running.engine.says = CALL
        assert (await chat(running, tools=[TOOL]))["choices"][0]["message"]["content"] is None
        running.engine.says = "Sunny."
        (choice,) = (await chat(running, tools=[TOOL]))["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Sunny."}
        assert choice["finish_reason"] == "stop"


async def test_calls_are_streamed_as_they_come(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = f"I look. {CALL}"
        chunks = await events(running, tools=[TOOL])
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content") or "" for delta in deltas) == "I look."
        pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
        assert (pieces[0]["index"], pieces[0]["type"], pieces[0]["function"]["name"]) == (0, "function", "weather")
        assert not any("name" in piece["function"] or "id" in piece for piece in pieces[1:])
        assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city": "Paris"}'
        assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"][0]["finish_reason"]] == [
            "tool_calls"
        ]


async def test_a_call_that_is_cut_off_or_broken_is_text(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = CALL
        (choice,) = (await chat(running, tools=[TOOL], max_tokens=30))["choices"]
        assert choice["finish_reason"] == "length"
        assert choice["message"]["content"] == CALL[:30]
        running.engine.says = broken = CALL.replace('"Paris"', "Paris")
        (choice,) = (await chat(running, tools=[TOOL]))["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == (broken, "stop")


async def test_without_tools_nothing_is_a_call(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = CALL
        for fields in ({}, {"tools": [], "tool_choice": "auto"}, {"tools": [TOOL], "tool_choice": "none"}):
            (choice,) = (await chat(running, **fields))["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (CALL, "stop")
            assert running.engine.options[-1].tools == ()


@pytest.mark.parametrize(
    ("fields", "names", "several"),
    [
        ({"tool_choice": "required"}, ["weather", "now"], True),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ["weather", "now"], False),
        ({"tool_choice": {"type": "function", "function": {"name": "now"}}}, ["now"], False),
    ],
)
async def test_calls_that_must_come_are_a_grammar(tmp_path: Path, fields: Any, names: list[str], several: bool) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = CALL
        body = await chat(running, tools=[TOOL, OTHER], **fields)
        assert body["choices"][0]["finish_reason"] == "tool_calls"
        constraint = running.engine.tickets[-1].sampling.constraint
        assert constraint.kind == "lark"
        assert [name for name in ("weather", "now") if name in constraint.value] == names
        assert (")*" in constraint.value) is several


async def test_strict_tools_hold_calls_that_may_come(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = "Sunny."
        strict = {**TOOL, "function": {**TOOL["function"], "strict": True}}  # type: ignore[dict-item]
        await chat(running, tools=[TOOL])
        assert running.engine.tickets[-1].sampling.constraint is None
        await chat(running, tools=[strict])
        assert "[lazy]" in running.engine.tickets[-1].sampling.constraint.value


async def test_a_model_that_cant_be_held_says_so(tmp_path: Path) -> None:
    async with pod(tmp_path, "raw-prompts", "tools") as running:
        assert "can't be held" in await refused(running, tools=[TOOL], tool_choice="required")


async def test_older_functions_are_tools(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = CALL
        functions = [TOOL["function"]]
        (choice,) = (await chat(running, functions=functions))["choices"]
        assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
        assert choice["finish_reason"] == "function_call"
        deltas = [chunk["choices"][0]["delta"] for chunk in await events(running, functions=functions)]
        calls = [delta["function_call"] for delta in deltas if "function_call" in delta]
        assert calls[0]["name"] == "weather"
        assert "".join(call["arguments"] for call in calls) == '{"city": "Paris"}'
        await chat(running, functions=functions, function_call={"name": "weather"})
        assert running.engine.tickets[-1].sampling.constraint is not None
        history = [*ASK, {"role": "assistant", "content": None, "function_call": calls[0] | {"arguments": "{}"}},
                   {"role": "function", "name": "weather", "content": "sunny"}]  # fmt: skip
        await chat(running, messages=history)
        told = running.engine.messages[-1]
        assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"]
        assert (told[2]["role"], told[2]["name"]) == ("tool", "weather")


async def test_calls_in_the_history_reach_the_template(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        thought = {**CALLED, "reasoning_content": "hm"}
        await chat(running, messages=[*ASK, thought, RESULT, {"role": "user", "content": "Thanks"}], tools=[TOOL])
        told = running.engine.messages[-1]
        assert told[1] == {
            "role": "assistant", "content": "", "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
            ],
        }  # fmt: skip
        assert told[2] == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"}


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([*ASK, RESULT], r"messages\[1\].tool_call_id: no earlier message"),
        ([*ASK, CALLED, {**RESULT, "tool_call_id": "c2"}], r"messages\[2\].tool_call_id: no earlier message"),
        ([*ASK, {"role": "tool", "content": "x"}], r"messages\[1\].tool_call_id: which call"),
        ([{**ASK[0], "tool_calls": CALLED["tool_calls"]}], r"messages\[0\].tool_calls: only the assistant"),
        ([*ASK, {**CALLED, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "[1]"}}]}],
         r"messages\[1\].tool_calls\[0\].function.arguments: must be an object"),
    ],
)  # fmt: skip
async def test_what_makes_no_sense_in_a_history_is_told(tmp_path: Path, messages: Any, sentence: str) -> None:
    async with pod(tmp_path) as running:
        assert re.match(sentence, await refused(running, messages=messages))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"tool_choice": "required"}, "tool_choice: there are no tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "there is no function 'x'"),
        ({"tools": [TOOL, TOOL]}, "two functions with the name 'weather'"),
        ({"tools": [TOOL], "functions": [TOOL["function"]]}, "functions: is the older form"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        ({"tools": [OTHER] * 129}, "tools"),
    ],
)
async def test_tools_that_make_no_sense_are_refused(tmp_path: Path, fields: Any, sentence: str) -> None:
    async with pod(tmp_path) as running:
        assert sentence in await refused(running, **fields)


async def test_a_model_whose_template_knows_no_tools_is_told_in_words(tmp_path: Path) -> None:
    async with pod(tmp_path, "raw-prompts", template="{{ messages }}") as running:
        running.engine.says = CALL
        (choice,) = (await chat(running, messages=[*ASK, CALLED, RESULT], tools=[TOOL]))["choices"]
        assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"
        assert running.engine.options[-1].tools == ()
        told = running.engine.messages[-1]
        assert [each["role"] for each in told] == ["system", "user", "assistant", "user"]
        assert json.dumps(TOOL) in told[0]["content"]


async def test_the_manifest_may_name_the_dialect(tmp_path: Path) -> None:
    async with pod(tmp_path, tool_parser="llama3") as running:
        running.engine.says = '{"name": "weather", "parameters": {"city": "Paris"}}'
        (choice,) = (await chat(running, tools=[TOOL]))["choices"]
        assert choice["finish_reason"] == "tool_calls"


async def test_ids_of_other_servers_are_made_short_where_templates_insist(tmp_path: Path) -> None:
    async with pod(tmp_path, template="[TOOL_CALLS]") as running:
        running.engine.says = '[TOOL_CALLS] [{"name": "weather", "arguments": {}}]'
        (choice,) = (await chat(running, messages=[*ASK, CALLED, RESULT], tools=[TOOL]))["choices"]
        assert re.fullmatch("[a-zA-Z0-9]{9}", choice["message"]["tool_calls"][0]["id"])
        told = running.engine.messages[-1]
        assert re.fullmatch("[a-zA-Z0-9]{9}", told[1]["tool_calls"][0]["id"])
        assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"]


async def test_stop_strings_hold_in_calls_too(tmp_path: Path) -> None:
    async with pod(tmp_path) as running:
        running.engine.says = f"{CALL} STOP {CALL}"
        (choice,) = (await chat(running, tools=[TOOL], stop="STOP"))["choices"]
        assert len(choice["message"]["tool_calls"]) == 1
        assert choice["finish_reason"] == "tool_calls"
