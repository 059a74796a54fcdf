"""Base64 as clients write it: plain or in a data URI, with line breaks, URL-safe, with or without padding."""

import binascii
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from ams_common.errors import ApiError

_CHUNK_CHARACTERS = 1 << 17  # about a millisecond, for which no other thread runs
_WHITE = b" \t\r\n\v\f"
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_INVALID = re.compile(rf"[^{re.escape(_ALPHABET.decode())}\-_ \t\r\n\v\f]")
_LONGEST_HEAD = 1000  # of a data URI, up to its comma


def decoded_base64(text: str, field: str) -> Iterator[bytes]:
    """The bytes of a text in pieces of less than 128 KiB. ApiError `invalid_base64` names the field and the place."""
    start, is_base64 = _payload_start(text, field)
    if not is_base64:
        yield unquote_to_bytes(text[start:])
        return
    end = len(text)
    while end > start and (text[end - 1] == "=" or text[end - 1].isspace()):
        end -= 1
    left = b""
    for at in range(start, end, _CHUNK_CHARACTERS):
        characters = left + _significant(text, at, min(at + _CHUNK_CHARACTERS, end), field)
        whole = len(characters) // 4 * 4
        left = characters[whole:]
        yield binascii.a2b_base64(characters[:whole])
    if len(left) == 1:
        raise _invalid(field, "it ends in the middle of a byte, so it was cut off")
    if left:
        yield binascii.a2b_base64(left + b"=" * (4 - len(left)))


def _payload_start(text: str, field: str) -> tuple[int, bool]:
    """(index of the first character of the payload, whether it is base64)."""
    begin = len(text) - len(text.lstrip())
    if text[begin : begin + 5].lower() != "data:":
        return begin, True
    comma = text.find(",", begin, begin + _LONGEST_HEAD)
    if comma < 0:
        raise _invalid(field, "a data URI needs a comma in front of its data")
    return comma + 1, text[begin:comma].lower().rstrip().endswith(";base64")


def _significant(text: str, start: int, end: int, field: str) -> bytes:
    """The base64 characters of a part of the text, in the plain alphabet."""
    try:
        characters = text[start:end].encode("ascii").translate(_URL_SAFE, _WHITE)
    except UnicodeEncodeError:
        characters = b"?"
    if characters.translate(None, _ALPHABET):
        found = _INVALID.search(text, start, end)
        at = found.start() if found else start
        raise _invalid(field, f"character {text[at]!r} at position {at} is not base64", at)
    return characters


def _invalid(field: str, reason: str, position: int | None = None) -> ApiError:
    details: dict[str, Any] = {} if position is None else {"position": position}
    return ApiError(
        "invalid_base64", f"{field} must be base64 or a data URI: {reason}.", param=field, reason=reason, **details
    )
