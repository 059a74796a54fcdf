"""One response that is kept: what it was asked with, what it is, and which ones it goes on from. Pure."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from ams_common.outside import InvalidJson, read_json

LONGEST_CHAIN = 1000
"""Responses that one may go on from, one from the other."""

valid_id = re.compile(r"resp_[0-9a-f]{16,64}").fullmatch
_OVERHEAD_BYTES = 1000
_MOST_BYTES = 64 << 20
_USER = b'{"role":"user","content":'
_EMPTY = b"[]"


class KeptResponse(msgspec.Struct, frozen=True, kw_only=True):
    """`input` is a JSON list of items, `response` the response in JSON, `previous` are ids, the oldest first."""

    id: str
    previous: tuple[str, ...] = ()
    input: msgspec.Raw = msgspec.Raw(_EMPTY)
    response: msgspec.Raw = msgspec.Raw(b"{}")

    @property
    def size(self) -> int:
        """Bytes in memory, roughly."""
        return len(bytes(self.input)) + len(bytes(self.response)) + 60 * len(self.previous) + _OVERHEAD_BYTES


class _Told(msgspec.Struct, frozen=True):
    id: str = ""
    output: msgspec.Raw = msgspec.Raw(_EMPTY)


def as_items(given: bytes) -> bytes:
    """A request's `input` as a JSON list of items: a text is a user's message."""
    if given[:1] == b"[":
        return given
    return b"[" + _USER + given + b"}]" if given[:1] == b'"' and len(given) > 2 else _EMPTY


def response_of(body: bytes, given: bytes, previous: Sequence[str]) -> KeptResponse | None:
    """What is to be kept of a response that a pod answered; None if it is none."""
    try:
        told = read_json(body, _Told, max_bytes=_MOST_BYTES)
    except InvalidJson:
        return None
    if not valid_id(told.id):
        return None
    # Own copies: what they were cut out of may be much longer.
    return KeptResponse(
        id=told.id, previous=tuple(previous), input=msgspec.Raw(bytes(given)), response=msgspec.Raw(bytes(body))
    )


def items_of(chain: Iterable[KeptResponse]) -> bytes:
    """All that was asked and answered in a chain, the oldest first, as a JSON list of items."""
    lists = (items for kept in chain for items in (bytes(kept.input), _output(kept)))
    return b"[" + b",".join(filter(None, (items.strip()[1:-1].strip() for items in lists))) + b"]"


def listed(kept: KeptResponse, before: Sequence[KeptResponse]) -> list[dict[str, Any]]:
    """What a response was asked with: the chain before it, and its own items, each with an id."""
    raw = items_of([*before, msgspec.structs.replace(kept, response=msgspec.Raw(b"{}"))])
    try:
        items: list[dict[str, Any]] = read_json(raw, list[dict[str, Any]], max_bytes=_MOST_BYTES)
    except InvalidJson:
        return []
    return [_with_id(item, kept.id, number) for number, item in enumerate(items)]


def _with_id(item: dict[str, Any], of: str, number: int) -> dict[str, Any]:
    kind = item.get("type") or "message"
    digest = hashlib.sha256(f"{of} {number}".encode()).hexdigest()[:48]
    item = {"id": item.get("id") or f"{'msg' if kind == 'message' else 'item'}_{digest}", **item, "type": kind}
    if kind == "message" and isinstance(item.get("content"), str):
        part = "output_text" if item.get("role") == "assistant" else "input_text"
        item["content"] = [{"type": part, "text": item["content"]}]
    return item


def _output(kept: KeptResponse) -> bytes:
    try:
        return bytes(read_json(kept.response, _Told, max_bytes=_MOST_BYTES).output)
    except InvalidJson:
        return _EMPTY
