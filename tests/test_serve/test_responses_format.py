"""Responses as OpenAI's own types read them: whole and streamed, with thoughts, text and calls, cut anyhow."""

import random
from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.request_body import RequestReader
from ams_common.wire.responses import RESPONSE_EVENTS, ResponsesRequest
from ams_pod.serve.responses.format import ResponsesFormat
from ams_pod.serve.responses.toolbox import toolbox_of
from ams_pod.serve.responses.translating import sealed
from ams_pod.serve.thinking import CallDelta, Delta
from openai.lib.streaming.responses._responses import ResponseStreamState
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from test_serve.answer_pieces import ended, events_of, streamed

EVENT: "TypeAdapter[Any]" = TypeAdapter(ResponseStreamEvent)
TOOLS = [
    {"type": "function", "name": "ls", "parameters": {"type": "object"}, "strict": True, "description": "Lists."},
    {
        "type": "custom",
        "name": "apply_patch",
        "format": {"type": "grammar", "syntax": "lark", "definition": "start: A"},
    },
    {
        "type": "namespace",
        "name": "git",
        "description": "Git.",
        "tools": [{"type": "function", "name": "log", "parameters": {}}],
    },
]
THOUGHT = [Delta(thinking="Let "), Delta(thinking="me see")]
TEXT = [Delta(content="Hel"), Delta(content="lo\n")]
CALLS = [
    Delta(calls=(CallDelta(0, "call_1", "ls"),)),
    Delta(calls=(CallDelta(0, arguments='{"a":'), CallDelta(0, arguments="1}"))),
    Delta(calls=(CallDelta(1, "call_2", "apply_patch", '{"input":'),)),
    Delta(calls=(CallDelta(1, arguments=' "*** x"}'), CallDelta(2, "call_3", "git__log", "{}"))),
]


def form_of(**fields: Any) -> ResponsesFormat:
    body = {"model": "m", "input": "hi", "tools": TOOLS} | fields
    request = RequestReader(ResponsesRequest).read(msgspec.json.encode(body))[0]
    return ResponsesFormat(request, toolbox_of(request))


def stream(deltas: list[Delta], finish: str = "stop", **fields: Any) -> list[dict[str, Any]]:
    events = streamed(form_of(**fields), deltas, ended(finish))
    for event in events:
        EVENT.validate_python(event, strict=False)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def whole(deltas: list[Delta], finish: str = "stop", **fields: Any) -> dict[str, Any]:
    delta = Delta(
        "".join(each.content for each in deltas),
        "".join(each.thinking for each in deltas),
        tuple(call for each in deltas for call in each.calls),
    )
    told: dict[str, Any] = msgspec.to_builtins(form_of(**fields).whole(delta, ended(finish)))
    Response.model_validate(told)
    return told


def without_ids(value: Any) -> Any:
    """With neither ids, which are random, nor times."""
    if isinstance(value, dict):
        return {name: without_ids(each) for name, each in value.items() if name not in ("id", "item_id", "created_at")}
    return [without_ids(each) for each in value] if isinstance(value, list) else value


def test_a_text() -> None:
    events = stream(TEXT)
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.delta", "output_text.delta",
        "output_text.done", "content_part.done", "output_item.done", "completed",
    ]  # fmt: skip
    response = events[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "Hello\n"
    assert response["usage"] == {
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }


def test_thoughts_text_and_calls() -> None:
    events = stream([*THOUGHT, *TEXT, *CALLS])
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert [item["type"] for item in done] == [
        "reasoning", "message", "function_call", "custom_tool_call", "function_call",
    ]  # fmt: skip
    assert done == events[-1]["response"]["output"]
    assert done[0]["content"][0]["text"] == "Let me see"
    assert (done[0]["summary"], done[0]["encrypted_content"]) == ([], None)
    assert (done[2]["call_id"], done[2]["name"], done[2]["arguments"]) == ("call_1", "ls", '{"a":1}')
    assert (done[3]["call_id"], done[3]["name"], done[3]["input"]) == ("call_2", "apply_patch", "*** x")
    assert (done[4]["name"], done[4]["namespace"]) == ("log", "git")
    number = events[-1]["response"]["id"].removeprefix("resp_")
    assert [item["id"].partition("_")[2][:48] for item in done] == [number] * 5
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1, 2, 3, 4]
    assert [event["item"]["id"] for event in added] == [item["id"] for item in done]


@pytest.mark.parametrize("summary", [None, "auto"])
@pytest.mark.parametrize("finish", ["stop", "length", "tool_calls"])
def test_the_last_event_has_what_a_plain_answer_is(finish: str, summary: str | None) -> None:
    fields = {"reasoning": {"summary": summary}, "metadata": {"a": "b"}, "temperature": 0.5, "user": "me"}
    deltas = [*THOUGHT, *TEXT, *CALLS]
    last = stream(deltas, finish, **fields)[-1]["response"]
    assert without_ids(last) == without_ids(whole(deltas, finish, **fields))
    assert last["status"] == ("incomplete" if finish == "length" else "completed")
    assert last["incomplete_details"] == ({"reason": "max_output_tokens"} if finish == "length" else None)
    assert last["output"][-1]["status"] == last["status"]
    assert (last["metadata"], last["temperature"], last["user"]) == ({"a": "b"}, 0.5, "me")


def test_openais_helper_follows_the_events() -> None:
    """It puts together what it hears, and compares nothing: the text that it has is ours."""
    state: ResponseStreamState[Any] = ResponseStreamState(input_tools=[], text_format=openai_omit())
    for event in stream([*THOUGHT, *TEXT, *CALLS]):
        state.handle_event(EVENT.validate_python(event))
    completed = state._completed_response
    assert completed is not None
    assert completed.output_text == "Hello\n"


def openai_omit() -> Any:
    from openai._types import omit

    return omit


def test_what_is_shown_of_thoughts() -> None:
    asked = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
    events = stream(THOUGHT, **asked)
    kinds = [event["type"].removeprefix("response.") for event in events]
    assert kinds.count("reasoning_summary_text.delta") == kinds.count("reasoning_text.delta") == 2
    assert "reasoning_summary_part.done" in kinds
    [item] = events[-1]["response"]["output"]
    assert item["summary"] == [{"type": "summary_text", "text": "Let me see"}]
    assert item["encrypted_content"] == sealed("Let me see")


def test_white_space_alone_is_no_item() -> None:
    assert [item["type"] for item in whole([Delta(content="\n\n"), *CALLS[:2]])["output"]] == ["function_call"]
    events = stream([Delta(content="\n"), Delta(content=" a")])
    assert events[-1]["response"]["output"][0]["content"][0]["text"] == "\n a"
    assert stream([Delta(content="\n"), *CALLS[:2]])[-1]["response"]["output"][0]["type"] == "function_call"


def test_arguments_that_were_cut_off_are_told_as_they_are() -> None:
    output = whole([Delta(calls=(CallDelta(0, "c", "apply_patch", '{"input": "hal'),))], "length")["output"]
    assert (output[0]["input"], output[0]["status"]) == ('{"input": "hal', "incomplete")


def test_a_failure_ends_the_response_and_is_raised() -> None:
    form = form_of()
    form.begin(ended())
    form.piece(TEXT[0])
    failed, error = events_of(form.failed(ApiError("generation_failed", "It broke."), "r1").decode())
    assert (failed["type"], failed["response"]["status"]) == ("response.failed", "failed")
    assert failed["response"]["error"] == {"code": "generation_failed", "message": "It broke."}
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hel"
    assert error["error"]["code"] == error["code"] == "generation_failed"
    assert error["error"]["request_id"] == "r1"
    assert error["sequence_number"] == failed["sequence_number"] + 1
    begun = [event["type"] for event in events_of(form_of().failed(ApiError("timeout", "No."), "r").decode())]
    assert begun == ["response.created", "response.failed", "error"]


@pytest.mark.parametrize("seed", range(20))
def test_the_same_items_however_the_text_is_cut(seed: int) -> None:
    chance = random.Random(seed)

    def cut(text: str) -> list[str]:
        places = sorted(chance.sample(range(len(text) + 1), k=min(3, len(text))))
        return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True) if a < b]

    pieces = [Delta(thinking=text) for text in cut("I think.")] + [Delta(content=text) for text in cut("So it is.")]
    for number, name in enumerate(("ls", "apply_patch", "git__log")):
        pieces.append(Delta(calls=(CallDelta(number, f"c{number}", name),)))
        pieces += [Delta(calls=(CallDelta(number, arguments=text),)) for text in cut('{"input": "a\\nb"}')]
    joined = stream(pieces)[-1]["response"]["output"]
    assert without_ids(joined) == without_ids(whole(pieces)["output"])
    assert [item["type"] for item in joined] == [
        "reasoning", "message", "function_call", "custom_tool_call", "function_call",
    ]  # fmt: skip


def test_every_event_is_described() -> None:
    sent = {event["type"] for event in stream([*THOUGHT, *TEXT, *CALLS], reasoning={"summary": "auto"})}
    sent |= {event["type"] for event in stream(TEXT, "length")}
    described = {str(type_.__struct_config__.tag) for type_ in RESPONSE_EVENTS}
    assert sent | {"response.failed"} == described
