"""No field of a request is accepted and then dropped in silence."""

from pathlib import Path

import msgspec
import pytest
from ams_common.wire import ChatRequest, CompletionRequest, GenerateRequest, TranscriptionRequest
from ams_common.wire.messages import CountTokensRequest, MessagesRequest
from ams_common.wire.responses import ResponsesRequest
from test_common.field_uses import uses_of

ROOT = Path(__file__).parents[2]
REQUESTS = (
    GenerateRequest,
    ChatRequest,
    CompletionRequest,
    TranscriptionRequest,
    ResponsesRequest,
    MessagesRequest,
    CountTokensRequest,
)
SOURCES = [
    source
    for package in ("modelpod", "gateway")
    for file in (ROOT / package).rglob("*.py")
    if any(type_.__name__ in (source := file.read_text(encoding="utf-8")) for type_ in REQUESTS)
]


def unused_fields(sources: list[str], *more: str) -> dict[str, set[str]]:
    """Fields that nothing reads by type, as if each type had the fields `more` too."""
    uses = uses_of([type_.__name__ for type_ in REQUESTS], sources)
    unused = {type_.__name__: {field.name for field in msgspec.structs.fields(type_)} | set(more) for type_ in REQUESTS}
    return {name: missing for name, fields in unused.items() if (missing := fields - uses[name])}


def test_every_field_of_a_request_is_read() -> None:
    assert unused_fields(SOURCES) == {}


def test_a_field_that_nothing_reads_is_found() -> None:
    assert unused_fields(SOURCES, "typical_p") == {type_.__name__: {"typical_p"} for type_ in REQUESTS}


@pytest.mark.parametrize(
    ("use", "unused"),
    [
        (
            "request.ignore_eos",
            {name: {"ignore_eos"} for name in ("GenerateRequest", "ChatRequest", "CompletionRequest")},
        ),
        ("fields.include_thinking", {"GenerateRequest": {"include_thinking"}}),
        ("fields.messages", {"ChatRequest": {"messages"}}),
        ("fields.language", {"TranscriptionRequest": {"language"}}),
        ("getattr(fields, kind)", {"GenerateRequest": {"image", "video", "audio"}}),
    ],
)
def test_a_use_that_goes_leaves_its_field_unused(use: str, unused: dict[str, set[str]]) -> None:
    assert unused_fields([source.replace(use, "None") for source in SOURCES]) == unused
