"""Request bodies: what a wrong one is told."""

from typing import Any

import msgspec
import pytest
from ams_common import wire
from ams_common.errors import ApiError
from ams_common.parsing import choices, decode_body, explain
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, RoutingFields
from hypothesis import given
from hypothesis import strategies as st


def refused(body: bytes, kind: Any) -> tuple[str, str, str | None]:
    with pytest.raises(ApiError) as caught:
        decode_body(msgspec.json.Decoder(kind), body)
    error = caught.value
    assert error.status == 400
    return error.code, error.message, error.param


GENERATE: list[tuple[bytes, str, str, str | None]] = [
    (b"", "invalid_json", "The body is not valid JSON: Input data was truncated.", None),
    (b"{", "invalid_json", "The body is not valid JSON: Input data was truncated.", None),
    (b"prompt=hi", "invalid_json", "The body is not valid JSON: JSON is malformed: invalid character (byte 0).", None),
    (b'{"prompt":"\xff"}', "invalid_json", "The body is not valid JSON: it is not UTF-8.", None),
    (
        b'{"prompt":"a","temperature":NaN}',
        "invalid_json",
        "The body is not valid JSON: JSON is malformed: invalid character (byte 28).",
        None,
    ),
    (
        b'{"prompt":"a","x":' + b"[" * 9_000 + b"]" * 9_000 + b"}",
        "invalid_json",
        "The body is nested too deeply.",
        None,
    ),
    (b"[]", "invalid_parameter", "The body must be a JSON object: expected object, got array.", None),
    (b"null", "invalid_parameter", "The body must be a JSON object: expected object, got null.", None),
    (b"{}", "missing_prompt", "prompt is required: the text to answer.", "prompt"),
    (b'{"prompt":7}', "invalid_parameter", "prompt: expected str, got int.", "prompt"),
    (b'{"prompt":null}', "invalid_parameter", "prompt: expected str, got null.", "prompt"),
    (
        b'{"prompt":"a","temperature":3}',
        "invalid_parameter",
        "temperature: expected float <= 2.0.",
        "temperature",
    ),
    (
        b'{"prompt":"a","temperature":1e999}',
        "invalid_parameter",
        "temperature: number out of range.",
        "temperature",
    ),
    (
        b'{"prompt":"a","max_new_tokens":0}',
        "invalid_parameter",
        "max_new_tokens: expected int >= 1.",
        "max_new_tokens",
    ),
    (
        b'{"prompt":"a","max_new_tokens":99999999999999999999}',
        "invalid_parameter",
        "max_new_tokens: expected int <= 9223372036854775807.",
        "max_new_tokens",
    ),
    (b'{"prompt":"a","image":[1]}', "invalid_parameter", "image[0]: expected str, got int.", "image[0]"),
    (b'{"prompt":"a","stop":[""]}', "invalid_parameter", "stop[0]: expected str of length >= 1.", "stop[0]"),
]


@pytest.mark.parametrize(("body", "code", "words", "param"), GENERATE, ids=[repr(row[0][:40]) for row in GENERATE])
def test_a_wrong_generate_body(body: bytes, code: str, words: str, param: str | None) -> None:
    assert refused(body, GenerateRequest) == (code, words, param)


CHAT = [
    (b'{"messages":[{"role":"user","content":"a"}]}', "model: is required."),
    (b'{"model":"m","messages":[]}', "messages: expected array of length >= 1."),
    (b'{"model":"m","messages":"hi"}', "messages: expected array, got str."),
    (b'{"model":"m","messages":[{"content":"a"}]}', "messages[0].role: is required."),
    (
        b'{"model":"m","messages":[{"role":"bot","content":"a"}]}',
        "messages[0].role: invalid enum value 'bot'; allowed: assistant, developer, function, system, tool, user.",
    ),
    (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"pdf"}]}]}',
        "messages[0].content[0].type: invalid value 'pdf'; allowed: text, image_url, video_url, input_audio, "
        "audio_url, file.",
    ),
    (
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text"}]}]}',
        "messages[0].content[0].text: is required.",
    ),
]


@pytest.mark.parametrize(("body", "words"), CHAT)
def test_a_wrong_chat_body(body: bytes, words: str) -> None:
    assert refused(body, ChatRequest)[:2] == ("invalid_parameter", words)


def test_what_the_gateway_reads_of_a_chat() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}'
    fields = decode_body(msgspec.json.Decoder(RoutingFields), body)
    assert fields.model == "m"
    assert [part.type for part in fields.messages[0].content or [] if not isinstance(part, str)] == ["image_url"]


def test_a_completion_prompt_may_be_text_or_tokens() -> None:
    decoder = msgspec.json.Decoder(CompletionRequest)
    assert decoder.decode(b'{"model":"m","prompt":[1,2]}').prompt == [1, 2]
    assert decoder.decode(b'{"model":"m","prompt":"a"}').prompt == "a"
    assert decoder.decode(b'{"model":"m","prompt":["a","b"]}').prompt == ["a", "b"]
    assert decoder.decode(b'{"model":"m","prompt":[[1],[2]]}').prompt == [[1], [2]]


def test_every_wire_type_can_be_read() -> None:
    for kind in vars(wire).values():
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct:
            msgspec.json.Decoder(kind)


def test_the_path_of_the_document_itself_is_empty() -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b"1", type=list[int])
    assert explain(caught.value) == ("", "expected array, got int")


def test_choices_are_empty_where_any_value_goes() -> None:
    assert choices(ChatRequest, "model") == []
    assert choices(ChatRequest, "no.such[0].path") == []


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    try:
        decode_body(msgspec.json.Decoder(GenerateRequest), body)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - both outcomes are right
