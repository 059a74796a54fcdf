"""Whose API a path belongs to: its errors, and what its streams are written like."""

import re
from enum import StrEnum
from typing import Any

import msgspec


class Dialect(StrEnum):
    """An API's own ways."""

    NATIVE = "native"  # the older server's
    OPENAI = "openai"
    RESPONSES = "responses"  # OpenAI's too, with events of its own
    ANTHROPIC = "anthropic"


_V1 = re.compile(r"/+v1(/|$)")
_MEANT = re.compile(r".*/(chat/completions|completions|models|embeddings|rerank|moderations|audio/\w+|images/\w+)/*$")
_RESPONSES = re.compile(r".*/responses(/[^/]*(/input_items)?)?/*$")
_MESSAGES = re.compile(r".*/messages(/count_tokens)?/*$")
_NATIVE = re.compile(r"/+(generate|admin|internal)/")


def dialect_of(path: str) -> Dialect:
    """The API that a path is of, or is meant to be: a base URL without /v1, or with two, is a usual mistake."""
    if _NATIVE.match(path) is not None:
        return Dialect.NATIVE
    if _MESSAGES.match(path) is not None:
        return Dialect.ANTHROPIC
    if _RESPONSES.match(path) is not None:
        return Dialect.RESPONSES
    return Dialect.OPENAI if _V1.match(path) is not None or _MEANT.match(path) is not None else Dialect.NATIVE


def error_event(body: bytes, path: str, sequence_number: int | None = None) -> bytes:
    """An error's JSON body, which holds no line break, as the event of `path` that ends a stream.

    Clients of OpenAI's and Anthropic's APIs raise an error on it. `{"error":` is how its data begins, whatever the API.
    `sequence_number` is the event's in a stream of responses; without one nothing is known of the response, and an
    event that it failed comes before, as some clients wait for that.
    """
    match dialect_of(path):
        case Dialect.OPENAI:
            return b"data: " + body + b"\n\n"
        case Dialect.RESPONSES:
            return _of_responses(body, sequence_number)
    return _error(body)


def _error(data: bytes) -> bytes:
    return b"event: error\ndata: " + data + b"\n\n"


def _of_responses(body: bytes, sequence_number: int | None) -> bytes:
    """OpenAI's envelope with what its event has beside it, which typed clients read."""
    try:
        error: Any = msgspec.json.decode(body)["error"]
        told = {name: error.get(name) for name in ("code", "message", "param")}
        request_id = error.get("request_id")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return _error(body)
    failed, number = b"", sequence_number or 0
    if sequence_number is None:
        response = {
            "id": f"resp_{request_id}", "object": "response", "created_at": 0, "status": "failed", "model": "",
            "error": {"code": told["code"], "message": told["message"]}, "output": [], "tools": [],
            "parallel_tool_calls": True, "tool_choice": "auto",
        }  # fmt: skip
        data = msgspec.json.encode({"type": "response.failed", "sequence_number": 0, "response": response})
        failed, number = b"event: response.failed\ndata: " + data + b"\n\n", 1
    event = {"error": error, "type": "error", "sequence_number": number, **told}
    return failed + _error(msgspec.json.encode(event))
