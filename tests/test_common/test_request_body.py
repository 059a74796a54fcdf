"""Fields of requests: habits of clients are taken, what would change the answer is refused, the rest is named."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.reference import with_tables
from ams_common.request_body import RequestReader, ignored_of_form, named
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, TranscriptionRequest
from ams_common.wire.request_fields import ROUTES, rows, rules_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BODIES: dict[Any, dict[str, Any]] = {
    ChatRequest: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    CompletionRequest: {"model": "m", "prompt": "hi"},
    GenerateRequest: {"prompt": "hi"},
}
READERS = {kind: RequestReader(kind) for kind in BODIES}


def read(kind: Any, **fields: Any) -> tuple[Any, list[str]]:
    return READERS[kind].read(json.dumps(BODIES[kind] | fields).encode())


def refused(kind: Any, **fields: Any) -> tuple[str, str | None]:
    with pytest.raises(ApiError) as caught:
        read(kind, **fields)
    assert (caught.value.status, caught.value.code) == (400, "invalid_parameter")
    return caught.value.message, caught.value.param


@pytest.mark.parametrize("kind", BODIES)
def test_each_rule_does_what_it_says(kind: Any) -> None:
    """At its place in a body: refused with its sentence, or taken; and never named as ignored."""
    for rule in rules_of(kind):
        for value in (None, *rule.harmless, *(["x", {"a": 1}, 7] if rule.treatment == "inert" else [])):
            assert read(kind, **_at(rule.path, value))[1] == [], rule.path
        if rule.treatment == "refused":
            message, param = refused(kind, **_at(rule.path, "something else"))
            assert message == f"{param}: {rule.sentence}."
            assert (param or "").replace("[0]", "[]") == rule.path


def _at(path: str, value: Any) -> dict[str, Any]:
    """A body's field with a value at `path`."""
    first, _, rest = path.partition(".")
    match first, rest:
        case (name, ""):
            return {name: value}
        case ("messages[]", inner) if inner.startswith("content[]."):
            part = {"type": "text", "text": "hi", inner.removeprefix("content[]."): value}
            return {"messages": [{"role": "user", "content": [part]}]}
        case ("messages[]", inner):
            return {"messages": [{"role": "assistant", "content": "hi", inner: value}]}
        case (name, inner):
            return {name: {inner: value}}
    raise AssertionError(path)


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        (ChatRequest, {"modalities": ["text", "audio"]}, "modalities: answers are text."),
        (ChatRequest, {"thinking_budget": 100}, "thinking_budget: how much a model reasons can't be set."),
        (ChatRequest, {"best_of": 2}, "best_of: only 1 answer a request is supported here."),
        (
            ChatRequest,
            {"structured_outputs": {"structural_tag": "{}"}},
            "structured_outputs.structural_tag: is not supported.",
        ),
        (CompletionRequest, {"bad_words": ["a"]}, "bad_words: is not supported."),
        (GenerateRequest, {"tools": [{}]}, "tools: calls of tools are for /v1/chat/completions."),
        (GenerateRequest, {"n": 2}, "n: only 1 answer a request is supported here."),
        (GenerateRequest, {"repeat_penalty": 1.5}, "repeat_penalty: is not supported; use repetition_penalty."),
    ],
)
def test_what_would_change_the_answer_is_refused(kind: Any, fields: dict[str, Any], sentence: str) -> None:
    assert refused(kind, **fields)[0] == sentence


@pytest.mark.parametrize("kind", BODIES)
def test_what_nobody_knows_is_named(kind: Any) -> None:
    assert read(kind, zeta={"prompt": 1}, do_sample=True, nothing=None)[1] == ["do_sample", "zeta"]


def test_nested_fields_are_named_without_their_numbers() -> None:
    part = {"type": "image_url", "image_url": {"url": "x", "odd": 1}, "text": "of another kind of part"}
    messages = [
        {"role": "user", "mood": "bad", "content": [part, {"type": "text", "text": "t", "odd": 1}]},
        {"role": "user", "mood": "good", "content": "x", "refusal": None},
    ]
    fields = {"stream_options": {"include_usage": True, "odd": 1}, "response_format": {"type": "text", "strict": True}}
    assert read(ChatRequest, messages=messages, **fields)[1] == [
        "messages[].content[].image_url.odd",
        "messages[].content[].odd",
        "messages[].content[].text",
        "messages[].mood",
        "response_format.strict",
        "stream_options.odd",
    ]


@pytest.mark.parametrize(
    ("kind", "sent", "meant"),
    [
        (ChatRequest, {"max_tokens": -1}, {"max_tokens": None}),
        (ChatRequest, {"max_tokens": 0, "max_completion_tokens": -1}, {"max_tokens": None}),
        (GenerateRequest, {"max_new_tokens": -1}, {"max_new_tokens": None}),
        (ChatRequest, {"max_tokens": 20.0}, {"max_tokens": 20}),
        (ChatRequest, {"top_k": -1}, {"top_k": 0}),
        (ChatRequest, {"top_k": 40.0, "seed": 7.0}, {"top_k": 40, "seed": 7}),
        (CompletionRequest, {"top_p": 0}, {"top_p": 0}),
        (CompletionRequest, {"stop": ""}, {"stop": None}),
        (CompletionRequest, {"stop": ["", "x"]}, {"stop": ["x"]}),
        (ChatRequest, {"n": 1.0, "temperature": 1}, {"temperature": 1.0}),
    ],
)
def test_habits_that_have_one_meaning_are_taken(kind: Any, sent: dict[str, Any], meant: dict[str, Any]) -> None:
    fields, ignored = read(kind, **sent)
    assert {name: getattr(fields, name) for name in meant} == meant
    assert ignored == []


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"max_tokens": -2}, "max_tokens: expected int >= 1."),
        ({"max_tokens": 1.5}, "max_tokens: expected int | null, got float."),
        ({"max_tokens": False}, "max_tokens: expected int | null, got bool."),
        ({"max_tokens": "20"}, "max_tokens: expected int | null, got str."),
        ({"top_k": -2}, "top_k: expected int >= 0."),
        ({"top_p": -0.1}, "top_p: expected float >= 0.0."),
        ({"stop": 7}, "stop: expected str | array | null, got int."),
    ],
)
def test_what_has_no_meaning_is_refused(fields: dict[str, Any], sentence: str) -> None:
    assert refused(ChatRequest, **fields)[0] == sentence


def test_forms() -> None:
    assert ignored_of_form({"model": "m", "user": "x", "odd": "1", "include": ""}, TranscriptionRequest) == ["odd"]
    with pytest.raises(ApiError, match="include: there are no logprobs of a transcript"):
        ignored_of_form({"include": "logprobs"}, TranscriptionRequest)


def test_names_fit_a_header() -> None:
    ignored = read(GenerateRequest, **{f"{'long' * 99}{number:05}\n": 1 for number in range(5000)})[1]
    assert len(ignored) == 1  # cut where they are alike
    ignored = read(GenerateRequest, **{f"{number:05}\né": 1 for number in range(5000)})[1]
    text = named(ignored)
    assert text.isascii()
    assert text.isprintable()
    assert text.endswith("and 4980 more")
    assert len(text) < 2300


@pytest.mark.parametrize(
    "body",
    [
        b'{"prompt":"a","\xff":1}',
        b'{"prompt":"a","stop":"\xff","max_new_tokens":-1}',
        b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"a","\xff":1}]}]}',
    ],
)
def test_names_that_are_no_text(body: bytes) -> None:
    kind: Any = ChatRequest if b"model" in body else GenerateRequest
    with pytest.raises(ApiError, match="it is not UTF-8") as caught:
        READERS[kind].read(body)
    assert caught.value.code == "invalid_json"


_LEAF = st.sampled_from([None, True, False, -1, 0, 1, 0.0, 1.0, -2.5, "", "x", "none", [], {}])
_JSON = _LEAF | st.lists(_LEAF, max_size=2) | st.dictionaries(st.sampled_from(["type", "text", "a"]), _LEAF, max_size=2)
_NAMES = sorted({rule.path.split(".")[0].removesuffix("[]") for kind in BODIES for rule in rules_of(kind)})


@pytest.mark.parametrize("kind", BODIES)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(fields=st.dictionaries(st.sampled_from([*_NAMES, "stop", "top_k", "max_tokens"]), _JSON, max_size=4))
def test_whatever_is_sent_is_read_or_refused(kind: Any, fields: dict[str, Any]) -> None:
    try:
        read(kind, **fields)
    except ApiError as error:
        assert error.status == 400  # noqa: PT017 - both outcomes are right


def test_the_page_has_every_field() -> None:
    page = (Path(__file__).parents[2] / "docs" / "fields.md").read_text(encoding="utf-8")
    assert with_tables(page) == page, "run: make docs"
    told = {(row.path, route) for row in rows() for route in row.routes}
    for kind, route in ROUTES.items():
        assert {(field.encode_name, route) for field in msgspec.structs.fields(kind)} <= told
    assert len(told) == sum(len(row.routes) for row in rows()), "a field is treated in two ways on one route"
