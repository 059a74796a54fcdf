"""What an engine says where it gives no answer, as a sentence that may be shown. Pure."""

import re
from typing import Any

from ams_common.outside import InvalidJson, read_json
from ams_common.plain import plain_text

_MOST = 1000  # characters
_MOST_DEPTH = 4
_MOST_PARTS = 5
_NAMES = ("error", "message", "detail", "msg", "reason")
_PAGE = re.compile(r"\s*<(!doctype|html|head|body|\?xml)", re.I)
_INNER = re.compile(r"Traceback \(most recent call last\)|^\s+File \"|^\s+at .*\(.*:\d+\)", re.M)
_SECRET = re.compile(r"\b(Bearer\s+|sk-|hf_)[\w.~+/=-]{8,}", re.I)


def message_of(body: bytes) -> str:
    """The sentence of an error's body, whatever shape it has, on one line; empty for a page or a stack of calls."""
    try:
        found = _told(read_json(body))
    except InvalidJson:
        found = body[: 4 * _MOST].decode("utf-8", "replace")
    if _PAGE.match(found) or _INNER.search(found):
        return ""
    return plain_text(_SECRET.sub("…", found), _MOST)


def _told(found: Any, depth: int = 0) -> str:
    if isinstance(found, str):
        return found
    if isinstance(found, dict) and depth < _MOST_DEPTH:
        told = next((found[name] for name in _NAMES if found.get(name)), None)
        text = _told(told, depth + 1)
        place = found.get("loc")  # as FastAPI names the field that it refuses
        if text and isinstance(place, list):
            return f"{'.'.join(str(part) for part in place if isinstance(part, str | int))[:100]}: {text}"
        return text
    if isinstance(found, list) and depth < _MOST_DEPTH:
        return "; ".join(text for each in found[:_MOST_PARTS] if (text := _told(each, depth + 1)))
    return "" if found is None or isinstance(found, dict | list) else str(found)
