"""Items that a request names instead of sending them: an item's id tells the response that it is of. Pure."""

import re
from collections.abc import Mapping, Sequence

import msgspec
from ams_common.outside import InvalidJson, read_json

from ams_gateway.responses.kept import KeptResponse

MARK = b'"item_reference"'
_ITEM_ID = re.compile(r"[a-z]{1,10}_([0-9a-f]{48})[0-9a-f]{4}").fullmatch
_MOST_BYTES = 64 << 20


class _Item(msgspec.Struct, frozen=True):
    type: str = ""
    id: str = ""


class _Output(msgspec.Struct, frozen=True):
    output: list[msgspec.Raw] = []


_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
_ITEM = msgspec.json.Decoder(_Item)


def items_in(given: bytes) -> list[tuple[msgspec.Raw, str]]:
    """(item, id of the one that it names, or "") of a request's input; nothing of an input that makes no sense."""
    try:
        items = _ITEMS.decode(given)
        peeked = [_ITEM.decode(item) for item in items]
    except msgspec.DecodeError:
        return []
    pairs = zip(items, peeked, strict=True)
    return [(item, peek.id if peek.type == "item_reference" else "") for item, peek in pairs]


def response_of_item(item_id: str) -> str:
    """The id of the response that an item is of; "" where its id isn't one of ours."""
    match = _ITEM_ID(item_id)
    return f"resp_{match[1]}" if match is not None else ""


def item_of(kept: KeptResponse, item_id: str) -> msgspec.Raw | None:
    """An item of a response."""
    try:
        output = read_json(kept.response, _Output, max_bytes=_MOST_BYTES).output
        return next((item for item in output if _ITEM.decode(item).id == item_id), None)
    except (InvalidJson, msgspec.DecodeError):
        return None


def with_items(items: Sequence[tuple[msgspec.Raw, str]], found: Mapping[str, msgspec.Raw]) -> bytes:
    """The input with the items that it names, as a JSON list."""
    return b"[" + b",".join(bytes(found[name] if name else item) for item, name in items) + b"]"
