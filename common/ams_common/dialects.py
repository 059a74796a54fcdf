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


def error_event(body: bytes, path: str, sequence_number: int = 0) -> bytes:
    """An error's JSON body, which holds no line break, as the event of `path` that ends a stream.

    Clients of OpenAI's and Anthropic's APIs raise an error on it. `{"error":` is how its data begins, whatever the API.
    """
    match dialect_of(path):
        case Dialect.OPENAI:
            return b"data: " + body + b"\n\n"
        case Dialect.RESPONSES:
            return b"event: error\ndata: " + _of_responses(body, sequence_number) + b"\n\n"
    return b"event: error\ndata: " + body + b"\n\n"


def _of_responses(body: bytes, sequence_number: int) -> bytes:
    """OpenAI's envelope with what its event has beside it, which typed clients read."""
    try:
        error: Any = msgspec.json.decode(body)["error"]
        told = {name: error.get(name) for name in ("code", "message", "param")}
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return body
    return msgspec.json.encode({"error": error, "type": "error", "sequence_number": sequence_number, **told})
