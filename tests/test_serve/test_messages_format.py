"""Messages as Anthropic's own types read them: whole and streamed, with thoughts, text and calls, cut anyhow."""

import random
from typing import Any

import msgspec
import pytest
from ams_common.wire.messages import MESSAGE_EVENTS
from ams_pod.serve.messages.format import MessagesFormat, Shown
from ams_pod.serve.thinking import CallDelta, Delta
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter
from test_serve.answer_pieces import ended, streamed

EVENT: "TypeAdapter[Any]" = TypeAdapter(RawMessageStreamEvent)
THOUGHT = [Delta(thinking="Let "), Delta(thinking="me see")]
TEXT = [Delta(content="Hel"), Delta(content="lo\n")]
CALLS = [
    Delta(calls=(CallDelta(0, "toolu_1", "ls"),)),
    Delta(calls=(CallDelta(0, arguments='{"a":'), CallDelta(0, arguments="[1]}"))),
    Delta(calls=(CallDelta(1, "toolu_2", "cat", "{}"),)),
]


def stream(deltas: list[Delta], finish: str = "stop", thinking: Shown = "whole", **more: Any) -> list[dict[str, Any]]:
    events = streamed(MessagesFormat("m", thinking), deltas, ended(finish, **more))
    for event in events:
        if event["type"] != "ping":
            EVENT.validate_python(event)
    return events


def heard(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that Anthropic's SDK puts together."""
    snapshot: Any = None
    buffers: dict[int, Any] = {}
    for event in events:
        if event["type"] != "ping":
            made: Any = EVENT.validate_python(event)
            snapshot = accumulate_event(event=made, current_snapshot=snapshot, json_bufs=buffers)
    return told(snapshot.model_dump(mode="json"))


def whole(deltas: list[Delta], finish: str = "stop", thinking: Shown = "whole", **more: Any) -> dict[str, Any]:
    delta = Delta(
        "".join(each.content for each in deltas),
        "".join(each.thinking for each in deltas),
        tuple(call for each in deltas for call in each.calls),
    )
    message = msgspec.to_builtins(MessagesFormat("m", thinking).whole(delta, ended(finish, **more)))
    return told(Message.model_validate(message).model_dump(mode="json"))


def told(message: dict[str, Any]) -> dict[str, Any]:
    content = [
        {name: value for name, value in block.items() if value is not None and name != "parsed_output"}
        for block in message["content"]
    ]
    return {
        "content": content,
        "stop_reason": message["stop_reason"],
        "stop_sequence": message["stop_sequence"],
        "usage": {name: value for name, value in message["usage"].items() if value is not None},
    }


def test_a_text() -> None:
    events = stream(TEXT)
    assert [event["type"] for event in events] == [
        "message_start", "ping", "content_block_start", "content_block_delta", "content_block_delta",
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert heard(events)["content"] == [{"type": "text", "text": "Hello\n"}]


@pytest.mark.parametrize("thinking", ["no", "empty", "whole"])
@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
def test_a_stream_adds_up_to_the_plain_answer(finish: str, thinking: Shown) -> None:
    deltas = [*THOUGHT, *TEXT, *CALLS]
    message = whole(deltas, finish, thinking)
    assert heard(stream(deltas, finish, thinking)) == message
    assert message["stop_reason"] == {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[finish]
    *thoughts, text, first, second = message["content"]
    assert [block["thinking"] for block in thoughts] == {"no": [], "empty": [""], "whole": ["Let me see"]}[thinking]
    assert all(block["signature"] for block in thoughts)
    assert text["text"] == "Hello\n"
    assert (first["name"], first["input"], second["input"]) == ("ls", {"a": [1]}, {})


def test_a_stop_sequence_is_told() -> None:
    message = heard(stream(TEXT, stopped_by="END"))
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    assert message == whole(TEXT, stopped_by="END")


def test_tokens_from_the_cache_are_no_input_tokens() -> None:
    usage = whole(TEXT, cached=8)["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (2, 8, 4)
    assert usage["output_tokens_details"] == {"thinking_tokens": 2}
    assert heard(stream(TEXT, cached=8))["usage"] == usage


def test_a_hidden_thought_keeps_the_connection_alive() -> None:
    events = stream([Delta(thinking="x")] * 64 + TEXT, thinking="no")
    assert [event["type"] for event in events].count("ping") == 3


def test_white_space_alone_is_no_block() -> None:
    for deltas in ([Delta(content="\n\n"), *CALLS], [Delta(content="\n"), Delta(content="\n")]):
        message = whole(deltas)
        assert "text" not in [block["type"] for block in message["content"]]
        assert heard(stream(deltas)) == message


@pytest.mark.parametrize("seed", range(20))
def test_the_same_blocks_however_the_text_is_cut(seed: int) -> None:
    chance = random.Random(seed)

    def cut(text: str) -> list[str]:
        places = sorted(chance.sample(range(len(text) + 1), k=min(3, len(text))))
        return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True) if a < b]

    pieces = [Delta(thinking=text) for text in cut("I think.")] + [Delta(content=text) for text in cut("So it is.")]
    for number in range(3):
        pieces.append(Delta(calls=(CallDelta(number, f"c{number}", "f"),)))
        pieces += [Delta(calls=(CallDelta(number, arguments=text),)) for text in cut('{"input": "a\\nb"}')]
    assert heard(stream(pieces, "tool_calls")) == whole(pieces, "tool_calls")


def test_every_event_is_described() -> None:
    sent = {event["type"] for event in stream([*THOUGHT, *TEXT, *CALLS])}
    assert sent == {str(type_.__struct_config__.tag) for type_ in MESSAGE_EVENTS}
