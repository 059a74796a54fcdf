"""A session of 20 calls with a model whose calls are known, through the gateway, as agents' frameworks send it."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from fakehub import scripted
from test_serve.live_pods import LiveForkServer, LiveGateway, LivePod, child_pod, gateway_process

STEPS = 20
LAST = "All 20 steps are done."
STEP: Any = {
    "type": "function",
    "function": {
        "name": "step",
        "description": "Do a step.",
        "parameters": {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
    },
}


@pytest.fixture(scope="module")
def agent(folder: Path, forks: LiveForkServer) -> Iterator[LivePod]:
    scripts = [*scripted.steps(STEPS, "step", LAST), ("true", ["Hello.", " It is", " I."])]
    with child_pod(forks, folder, scripted.agent(folder / "agent", scripts), "agent") as pod:
        yield pod


@pytest.fixture(scope="module")
def through(folder: Path, agent: LivePod) -> Iterator[LiveGateway]:
    logs = folder / "agent-gateway"
    logs.mkdir()
    with gateway_process(logs, agent) as running:
        yield running


@pytest.fixture
def client(through: LiveGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{through.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def asked(client: openai.OpenAI, messages: list[Any]) -> Any:
    return client.chat.completions.create(model="agent", messages=messages, tools=[STEP], temperature=0).choices[0]


def streamed(client: openai.OpenAI, messages: list[Any]) -> Any:
    with client.chat.completions.stream(model="agent", messages=messages, tools=[STEP], temperature=0) as stream:
        return stream.get_final_completion().choices[0]


@pytest.mark.parametrize("ask", [asked, streamed])
def test_a_session_of_twenty_calls_ends_as_scripted(client: openai.OpenAI, ask: Any) -> None:
    messages: list[Any] = [{"role": "user", "content": "Do all steps."}]
    for number in range(1, STEPS + 1):
        choice = ask(client, messages)
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content
        (call,) = choice.message.tool_calls
        assert json.loads(call.function.arguments) == {"number": number}
        messages.append(choice.message.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"step {number} is done"})
    choice = ask(client, messages)
    assert (choice.message.content, choice.finish_reason) == (LAST, "stop")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "other"}}])
@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_call_that_must_come_comes(client: openai.OpenAI, choice: Any, temperature: float) -> None:
    other = {
        "type": "function",
        "function": {
            "name": "other",
            "parameters": {
                "type": "object",
                "properties": {"kind": {"enum": ["a", "b"]}, "many": {"type": "boolean"}},
                "required": ["kind", "many"],
                "additionalProperties": False,
            },
        },
    }
    done = client.chat.completions.create(
        model="agent", messages=[{"role": "user", "content": "Hello"}], tools=[other], tool_choice=choice,  # type: ignore[list-item]
        temperature=temperature, parallel_tool_calls=False, seed=1, max_tokens=400,
    ).choices[0]  # fmt: skip
    assert done.finish_reason == "tool_calls"
    assert done.message.tool_calls is not None
    (call,) = done.message.tool_calls
    arguments = json.loads(call.function.arguments)  # type: ignore[union-attr]
    assert set(arguments) == {"kind", "many"}
    assert arguments["kind"] in "ab"
    assert isinstance(arguments["many"], bool)


def test_logprobs_of_prompt_and_answer_are_told(client: openai.OpenAI) -> None:
    """As lm-eval sends them: lists of ids, with the prompt, and one token more or none."""
    prompts: Any = [[5, 6, 7, 8], [9, 10]]
    one, none = (
        client.completions.create(model="agent", prompt=prompts, echo=True, logprobs=1, max_tokens=most, temperature=0)
        for most in (1, 0)
    )
    assert [len(choice.logprobs.tokens) for choice in one.choices if choice.logprobs] == [5, 3]
    for choice, without in zip(one.choices, none.choices, strict=True):
        assert choice.logprobs is not None
        assert without.logprobs is not None
        assert without.logprobs.token_logprobs == choice.logprobs.token_logprobs[:-1]  # type: ignore[index]
        assert choice.logprobs.token_logprobs[0] is None  # type: ignore[index]
        assert all(-math.inf < value <= 0 for value in choice.logprobs.token_logprobs[1:])  # type: ignore[index]
    assert none.usage is not None
    assert (none.usage.prompt_tokens, none.usage.completion_tokens) == (6, 0)


def test_several_answers_and_tokens_of_a_chat(client: openai.OpenAI, through: LiveGateway) -> None:
    hello: Any = [{"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(
        model="agent", messages=hello, n=3, temperature=0, logprobs=True, top_logprobs=2
    )
    assert [choice.message.content for choice in chat.choices] == ["Hello. It is I."] * 3
    logprobs = chat.choices[0].logprobs
    assert logprobs is not None
    assert [each.token for each in logprobs.content or ()] == ["Hello.", " It is", " I."]
    assert all(each.top_logprobs[0].token == each.token for each in logprobs.content or ())
    body = client.post(f"{through.url}/tokenize", body={"model": "agent", "messages": hello}, cast_to=object)
    assert chat.usage is not None
    assert body["count"] == chat.usage.prompt_tokens  # type: ignore[index]
    again: Any = [*hello, {"role": "assistant", "content": "Hello."}]
    going = client.chat.completions.create(
        model="agent", messages=again, temperature=0, extra_body={"continue_final_message": True}
    )
    assert going.choices[0].message.content == " It is I."
