"""/v1/responses of a pod with OpenAI's own client: a scripted model calls tools, thinks, and fails."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from ams_pod.engines.port import EngineError
from test_media.media_files import picture, saved
from test_serve.answer_pieces import events_of
from test_serve.echo_pod import EchoPod, echo_pod

LS = {"type": "function", "name": "ls", "description": "Lists.", "parameters": {
    "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}, "strict": False}  # fmt: skip
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
CALL = '<tool_call>\n{"name": "ls", "arguments": {"path": "a"}}\n</tool_call>'


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[EchoPod]:
    async with echo_pod(tmp_path, features=("tools", "reasoning", "logprobs"), tool_parser="hermes") as running:
        running.engine.finish = "stop"
        yield running


def client_of(pod: EchoPod) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=pod.url + "/v1", api_key="none", max_retries=0)


async def test_a_text_whole_and_streamed(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        response = await client.responses.create(model="echo", input="hi", instructions="be brief")
        assert response.output_text == "system: be brief; user: hi"
        assert response.usage is not None
        assert (response.usage.input_tokens, response.usage.output_tokens) == (26, 26)
        async with client.responses.stream(model="echo", input="hi") as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert final.output_text == "user: hi"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_loop_of_twenty_calls(pod: EchoPod, streamed: bool) -> None:
    """Codex's way: everything is sent again each time, nothing is stored."""
    items: list[Any] = [{"role": "user", "content": "list it all"}]
    options: Any = {"model": "echo", "tools": [LS, PATCH], "store": False, "include": ["reasoning.encrypted_content"]}
    async with client_of(pod) as client:
        for number in range(20):
            pod.engine.says = f"<think>\nstep {number}</think>\n\n" + CALL.replace('"a"', f'"d{number}"')
            if streamed:
                async with client.responses.stream(input=items, **options) as stream:
                    response: Any = await stream.get_final_response()
            else:
                response = await client.responses.create(input=items, **options)
            thought, call = response.output
            assert (call.type, call.name, json.loads(call.arguments)) == ("function_call", "ls", {"path": f"d{number}"})
            items += [
                {"type": "reasoning", "summary": [], "encrypted_content": thought.encrypted_content},
                {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
                {"type": "function_call_output", "call_id": call.call_id, "output": f"file {number}"},
            ]
        pod.engine.says = "All listed."
        response = await client.responses.create(input=items, **options)
        assert response.output_text == "All listed."
    messages = pod.engine.messages[-1]
    assert [message["role"] for message in messages] == ["user", *["assistant", "tool"] * 20]
    assert messages[-2]["reasoning_content"] == "step 19"
    assert messages[-2]["tool_calls"][0]["function"]["arguments"] == {"path": "d19"}
    assert messages[-1]["content"] == "file 19"


async def test_a_custom_tool_is_called_with_a_text(pod: EchoPod) -> None:
    pod.engine.says = '<tool_call>\n{"name": "apply_patch", "arguments": {"input": "*** Begin\\nx"}}\n</tool_call>'
    options: Any = {"model": "echo", "input": "fix", "tools": [PATCH]}
    async with client_of(pod) as client, client.responses.stream(**options) as stream:
        events: list[Any] = [event async for event in stream]
    kinds = [event.type for event in events]
    assert "response.custom_tool_call_input.delta" in kinds
    [call] = events[-1].response.output
    assert (call.type, call.name, call.input) == ("custom_tool_call", "apply_patch", "*** Begin\nx")


async def test_the_tokens_run_out(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        response = await client.responses.create(model="echo", input="hi there", max_output_tokens=4)
        assert (response.status, response.output_text) == ("incomplete", "user")
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        stream = await client.responses.create(model="echo", input="hi there", max_output_tokens=4, stream=True)
        assert [event.type async for event in stream][-1] == "response.incomplete"


async def test_thinking_is_shown_and_switched_off(pod: EchoPod) -> None:
    pod.engine.says = "<think>\nhm</think>\n\nyes"
    async with client_of(pod) as client:
        response = await client.responses.create(model="echo", input="hi", reasoning={"summary": "auto"})
        thought: Any = response.output[0]
        assert (thought.content[0].text, thought.summary[0].text) == ("hm", "hm")
        assert response.output_text == "yes"
        await client.responses.create(model="echo", input="hi", reasoning={"effort": "none"})
        assert pod.engine.options[-1].no_thinking


async def test_logprobs(pod: EchoPod) -> None:
    pod.engine.says = "<think>\nhm</think>\n\nab"
    options: Any = {"model": "echo", "input": "hi", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with client_of(pod) as client:
        response = await client.responses.create(**options)
        async with client.responses.stream(**options) as stream:
            events: list[Any] = [event async for event in stream]
    for each in (response, events[-1].response):
        told: Any = each.output[1].content[0].logprobs  # type: ignore[union-attr]
        assert "".join(token.token for token in told).strip() == "ab"
        assert [len(token.top_logprobs) for token in told] == [2] * len(told)
    deltas = [token for event in events if event.type == "response.output_text.delta" for token in event.logprobs]
    assert [token.token for token in deltas] == [
        token.token for token in events[-1].response.output[1].content[0].logprobs
    ]


async def test_structured_output(tmp_path: Path) -> None:
    class Answer(pydantic.BaseModel):
        number: int

    async with echo_pod(tmp_path, features=("constraints",)) as pod, client_of(pod) as client:
        pod.engine.finish, pod.engine.says = "stop", '{"number": 7}'
        parsed = await client.responses.parse(model="echo", input="hi", text_format=Answer)
        assert parsed.output_parsed == Answer(number=7)
        constraint = pod.engine.tickets[0].sampling.constraint
        assert (constraint.kind, '"number"' in constraint.value) == ("json-schema", True)
    async with echo_pod(tmp_path) as pod, client_of(pod) as client:
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.parse(model="echo", input="hi", text_format=Answer)
        assert caught.value.param == "text.format"


async def test_images(pod: EchoPod) -> None:
    url = "data:image/png;base64," + base64.b64encode(saved(picture(), "PNG")).decode()
    content: Any = [{"type": "input_text", "text": "what"}, {"type": "input_image", "image_url": url, "detail": "auto"}]
    async with client_of(pod) as client:
        response = await client.responses.create(model="echo", input=[{"role": "user", "content": content}])
        assert response.output_text == "user: what <image 32x24>"
        content[1]["image_url"] = "data:image/png;base64,%%"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="echo", input=[{"role": "user", "content": content}])
        assert (caught.value.code, caught.value.param) == ("invalid_base64", "input[0]")


async def test_what_is_left_out_is_named(pod: EchoPod) -> None:
    body = {"model": "echo", "input": "hi", "tools": [LS, {"type": "web_search", "user_location": None}], "nonsense": 1}
    async with pod.client.post(pod.url + "/v1/responses", json=body) as response:
        assert response.headers["X-AMS-Ignored-Fields"] == "nonsense, tools[1] (web_search)"


async def test_failures(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        for fields, code in (
            ({"model": "nope"}, "model_not_found"),
            ({"tools": [{"type": "web_search"}]}, "invalid_parameter"),
            ({"previous_response_id": "resp_1"}, "previous_response_not_found"),
            ({"background": True}, "invalid_parameter"),
            ({"input": " "}, "missing_prompt"),
        ):
            with pytest.raises(openai.APIStatusError) as caught:
                await client.responses.create(**{"model": "echo", "input": "hi"} | fields)  # type: ignore[call-overload]
            assert caught.value.code == code
            assert str(caught.value.param).partition("[")[0] in fields
        pod.engine.error = EngineError("It broke.")
        with pytest.raises(openai.InternalServerError):
            await client.responses.create(model="echo", input="hi")


async def test_a_failure_in_a_stream(pod: EchoPod) -> None:
    pod.engine.hold = True
    async with pod.client.post(
        pod.url + "/v1/responses", json={"model": "echo", "input": "hi", "stream": True}
    ) as response:
        await pod.engine.submitted.wait()
        assert await response.content.readline() == b": queued\n"
        pod.engine.error = EngineError("It broke.")
        pod.engine.answer(pod.engine.tickets[0])
        text = (await response.content.read()).decode()
    created, failed, error = events_of(text)
    assert [each["type"] for each in (created, failed, error)] == ["response.created", "response.failed", "error"]
    assert failed["response"]["error"]["message"] == "It broke."
    assert error["error"]["code"] == "generation_failed"
    assert "[DONE]" not in text
    assert ": usage " in text or pod.engine.tickets[0].compute_seconds == 0


async def test_usage_and_timelines_count_it(pod: EchoPod) -> None:
    async with pod.client.post(pod.url + "/v1/responses", json={"model": "echo", "input": "hi"}) as response:
        assert response.headers["X-AMS-Usage"].startswith("prompt=8 completion=8")
        request_id = response.headers["X-Request-Id"]
    async with pod.client.get(f"{pod.url}/internal/timelines?request={request_id}") as told:
        assert '"/v1/responses"' in await told.text()
