"""/v1/messages of a pod with Anthropic's own client: a scripted model calls tools, thinks, and fails."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from ams_pod.engines.port import EngineError
from test_media.media_files import picture, saved
from test_serve.answer_pieces import events_of
from test_serve.echo_pod import EchoPod, echo_pod

LS: Any = {"name": "ls", "description": "Lists.", "input_schema": {
    "type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}  # fmt: skip
HI: Any = {"model": "echo", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}]}
IMAGE: Any = {
    "type": "image",
    "source": {"type": "base64", "media_type": "image/png", "data": base64.b64encode(saved(picture(), "PNG")).decode()},
}


@pytest.fixture
async def pod(tmp_path: Path) -> AsyncIterator[EchoPod]:
    async with echo_pod(tmp_path, features=("tools", "reasoning"), tool_parser="hermes") as running:
        running.engine.finish = "stop"
        yield running


def client_of(pod: EchoPod) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=pod.url, api_key="none", max_retries=0)


def calls(*paths: str) -> str:
    return "\n".join(
        f'<tool_call>\n{{"name": "ls", "arguments": {{"path": "{path}"}}}}\n</tool_call>' for path in paths
    )


async def test_a_text_whole_and_streamed(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        message = await client.messages.create(**HI, system="be brief")
        assert message.content[0].text == "system: be brief; user: hi"  # type: ignore[union-attr]
        assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == ("end_turn", 26, 26)
        async with client.messages.stream(**HI) as stream:
            assert "".join([text async for text in stream.text_stream]) == "user: hi"
            assert (await stream.get_final_message()).stop_reason == "end_turn"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_loop_of_twenty_calls(pod: EchoPod, streamed: bool) -> None:
    """Claude Code's way: calls at once, their results in one message, thoughts sent back as they came."""
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "list it all"}]}]
    options: Any = {
        "model": "echo",
        "max_tokens": 8000,
        "tools": [LS],
        "system": [{"type": "text", "text": "x" * 9000}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    }
    async with client_of(pod) as client:
        for number in range(10):
            pod.engine.says = f"<think>\nstep {number}</think>\n\nLooking.\n" + calls(f"a{number}", f"b{number}")
            if streamed:
                async with client.messages.stream(messages=messages, **options) as stream:
                    message: Any = await stream.get_final_message()
            else:
                message = await client.messages.create(messages=messages, **options)
            assert message.stop_reason == "tool_use"
            thought, text, first, second = message.content
            assert (thought.thinking, text.text.strip()) == (f"step {number}", "Looking.")
            assert (first.input, second.input) == ({"path": f"a{number}"}, {"path": f"b{number}"})
            results = [
                {"type": "tool_result", "tool_use_id": each.id, "content": each.name} for each in (first, second)
            ]
            messages += [{"role": "assistant", "content": message.content}, {"role": "user", "content": results}]
        pod.engine.says = "All listed."
        message = await client.messages.create(messages=messages, **options)
        assert message.content[0].text == "All listed."
    told = pod.engine.messages[-1]
    assert [each["role"] for each in told] == ["system", "user", *["assistant", "tool", "tool"] * 10]
    assert told[-3]["reasoning_content"] == "step 9"
    assert [call["function"]["arguments"] for call in told[-3]["tool_calls"]] == [{"path": "a9"}, {"path": "b9"}]


async def test_input_is_streamed_piece_by_piece(pod: EchoPod) -> None:
    pod.engine.says = calls("some/path")
    async with client_of(pod) as client:
        stream = await client.messages.create(**HI, tools=[LS], stream=True)
        pieces = [event async for event in stream]
    starts = [event for event in pieces if event.type == "content_block_start"]
    assert [start.content_block.type for start in starts] == ["tool_use"]
    deltas = [event.delta for event in pieces if event.type == "content_block_delta"]
    assert {delta.type for delta in deltas} == {"input_json_delta"}
    joined = "".join(delta.partial_json for delta in deltas)  # type: ignore[union-attr]
    assert joined.replace(" ", "") == '{"path":"some/path"}'


async def test_stop_sequences_and_the_end_of_tokens(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        message = await client.messages.create(**HI, stop_sequences=["x", "r:"])
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "r:")
        assert message.content[0].text == "use"  # type: ignore[union-attr]
        message = await client.messages.create(**HI | {"max_tokens": 2})
        assert (message.stop_reason, message.content[0].text) == ("max_tokens", "us")  # type: ignore[union-attr]


async def test_thinking_is_shown_to_who_asks(pod: EchoPod) -> None:
    pod.engine.says = "<think>\nhm</think>\n\nyes"
    async with client_of(pod) as client:
        kinds = []
        for thinking in (None, {"type": "disabled"}, {"type": "adaptive"}, {"type": "enabled", "budget_tokens": 1024}):
            fields: Any = {"thinking": thinking} if thinking else {}
            message = await client.messages.create(**HI, **fields)
            kinds.append([block.type for block in message.content])
        assert kinds == [["text"], ["text"], ["thinking", "text"], ["thinking", "text"]]
    assert [options.no_thinking for options in pod.engine.options] == [False, True, False, False]


async def test_a_prefill_is_gone_on_from(pod: EchoPod) -> None:
    pod.engine.says = " C)"
    messages: Any = [{"role": "user", "content": "which?"}, {"role": "assistant", "content": "The answer is ("}]
    async with client_of(pod) as client:
        message = await client.messages.create(**HI | {"messages": messages})
        assert message.content[0].text == " C)"  # type: ignore[union-attr]
    assert pod.engine.options[-1].continue_last


async def test_images_and_counting(pod: EchoPod) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "what"}, IMAGE]}]
    async with client_of(pod) as client:
        message = await client.messages.create(**HI | {"messages": messages})
        assert message.content[0].text == "user: what <image 32x24>"  # type: ignore[union-attr]
        counted = await client.messages.count_tokens(model="echo", messages=messages, tools=[LS], system="a")
        assert counted.input_tokens == len("system: a; user: what <image 32x24>")
    assert len(pod.engine.tickets) == 1
    broken: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "%%"}}
    async with client_of(pod) as client:
        for call in (
            client.messages.create(**HI | {"messages": [{"role": "user", "content": [broken]}]}),
            client.messages.count_tokens(model="echo", messages=[{"role": "user", "content": [broken]}]),
        ):
            with pytest.raises(anthropic.BadRequestError) as caught:
                await call
            body: Any = caught.value.body
            assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "invalid_base64")
            assert body["error"]["param"] == "messages[0]"


async def test_a_thread_is_refused_as_anthropics_sdk_wants_it(pod: EchoPod) -> None:
    """Its runner of tools then sends the whole conversation."""
    async with client_of(pod) as client:
        with pytest.raises(anthropic.BadRequestError) as caught:
            await client.beta.messages.create(**HI, thread={"type": "create"})
        body: Any = caught.value.body
        assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}


async def test_failures(pod: EchoPod) -> None:
    async with client_of(pod) as client:
        with pytest.raises(anthropic.NotFoundError):
            await client.messages.create(**HI | {"model": "nope"})
        with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
            await client.messages.create(**HI, tools=[{"type": "web_search_20250305", "name": "web_search"}])
        pod.engine.error = EngineError("It broke.")
        with pytest.raises(anthropic.InternalServerError) as caught:
            await client.messages.create(**HI)
        body: Any = caught.value.body
        assert (body["error"]["type"], body["error"]["message"]) == ("api_error", "It broke.")


async def test_a_failure_in_a_stream(pod: EchoPod) -> None:
    pod.engine.hold = True
    async with pod.client.post(pod.url + "/v1/messages", json=HI | {"stream": True}) as response:
        await pod.engine.submitted.wait()
        assert await response.content.readline() == b": queued\n"
        pod.engine.error = EngineError("It broke.")
        pod.engine.answer(pod.engine.tickets[0])
        text = (await response.content.read()).decode()
    [error] = events_of(text)
    assert (error["type"], error["error"]["type"], error["error"]["message"]) == ("error", "api_error", "It broke.")
    assert "[DONE]" not in text
