"""How much a JSON text holds, counted before anything is made of it, and the text without its long strings.

A decoder makes an object of 30 to 100 bytes of two characters like `{}`, so a text's size says little of the memory it
takes. Counting costs a pass over the bytes, piece by piece as they come, and stops at the first value too many.
"""

import re

MOST_STRUCTURES = 20_000
"""Arrays, objects and keys of one text: a chat of some thousand messages has as many."""
MOST_VALUES = 200_000
"""Values of one text: token ids of the longest prompts."""
KEPT_STRING_BYTES = 256
"""Longer strings are left out of an outline."""

_MOST_KEPT_BYTES = 1 << 20
_RARE = 256
_WINDOW_BYTES = 64 << 10
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_STRINGS = re.compile(_STRING, re.S)
_UP_TO_AN_OPEN_STRING = re.compile(rb'(?:[^"]++|' + _STRING + rb")*+", re.S)
_STRINGS_AND_SPACE = re.compile(_STRING + rb"|[ \t\r\n]{2,}", re.S)
_BRACKETS = re.compile(rb"[\[{\]}]")
_LONG = b'"' + b"x" * (KEPT_STRING_BYTES + 1)  # stands for the begin of a string that is longer than what is kept


class TooMuchJson(Exception):
    """A text holds more than it may; the message is a clause without a subject: `holds more than 200,000 values`."""


class Outline:
    """Takes a text in pieces of any size. `feed` raises TooMuchJson; with `keep`, `text` is what is left of it.

    What is no JSON passes: the decoder of the outline refuses it. Long strings become empty ones and runs of spaces one
    space, so that the outline of 64 MiB of media is a few hundred bytes.
    """

    def __init__(
        self,
        *,
        keep: bool,
        structures: int = MOST_STRUCTURES,
        values: int = MOST_VALUES,
        depth: int | None = None,
    ) -> None:
        self._structures, self._most_structures = 0, structures
        self._values, self._most_values = 0, values
        self._depth, self._most_depth = 0, depth
        self._kept = bytearray() if keep else None
        self._open = b""  # a string that hasn't ended, or what stands for a long one
        self._inside_long = False

    def feed(self, piece: bytes | bytearray) -> None:
        """Read on; a whole text of any size may be one piece."""
        for at in range(0, len(piece), _WINDOW_BYTES):
            self._read(bytes(piece[at : at + _WINDOW_BYTES]))

    def text(self) -> bytes:
        """The outline of what was fed."""
        return bytes(self._kept or b"") + self._open

    def _read(self, piece: bytes) -> None:
        if self._inside_long and piece.find(b'"') < 0 and piece.find(b"\\") < 0:
            return  # in the middle of media: the usual case of large bodies
        data = self._open + piece
        match = _UP_TO_AN_OPEN_STRING.match(data)
        end = match.end() if match else 0
        self._open, self._inside_long = _opening(data[end:])
        complete = data[:end]
        self._count(_STRINGS.sub(b"", complete))
        if self._kept is not None:
            self._kept += _STRINGS_AND_SPACE.sub(_shortened, complete)
            if len(self._kept) > _MOST_KEPT_BYTES:
                raise TooMuchJson(f"holds more than {_MOST_KEPT_BYTES:,} bytes beside its long texts")

    def _count(self, bare: bytes) -> None:
        self._structures += bare.count(b"{") + bare.count(b"[") + bare.count(b":")
        if self._structures > self._most_structures:
            raise TooMuchJson(f"holds more than {self._most_structures:,} arrays, objects and keys")
        self._values += bare.count(b",")
        if self._values > self._most_values:
            raise TooMuchJson(f"holds more than {self._most_values:,} values")
        if self._most_depth is None:
            return
        for bracket in _BRACKETS.findall(bare):
            self._depth += 1 if bracket in b"[{" else -1
            if self._depth > self._most_depth:
                raise TooMuchJson(f"is nested more than {self._most_depth} levels deep")


def check_json_size(
    data: bytes | bytearray,
    *,
    structures: int = MOST_STRUCTURES,
    values: int = MOST_VALUES,
    depth: int | None = None,
) -> None:
    """TooMuchJson if a whole text holds more than this. Small texts cost nothing, usual ones four searches."""
    if len(data) <= min(structures, values, structures if depth is None else depth):
        return
    brackets = _count(data, b"{") + _count(data, b"[")
    if (
        brackets + _count(data, b":") <= structures
        and _count(data, b",") <= values
        and (depth is None or brackets <= depth)
    ):
        return
    outline = Outline(keep=False, structures=structures, values=values, depth=depth)
    for at in range(0, len(data), _WINDOW_BYTES):
        outline.feed(data[at : at + _WINDOW_BYTES])


def _count(data: bytes | bytearray, byte: bytes) -> int:
    """How often a byte occurs. Where it is rare, as beside media, finding it is ten times faster than counting."""
    found, at = 0, data.find(byte)
    while at >= 0:
        found += 1
        if found == _RARE:
            return found + data.count(byte, at + 1)
        at = data.find(byte, at + 1)
    return found


def _shortened(match: re.Match[bytes]) -> bytes:
    found = match[0]
    if found[0] != 0x22:
        return b" "
    return found if len(found) <= KEPT_STRING_BYTES else b'""'


def _opening(rest: bytes) -> tuple[bytes, bool]:
    """(what to put before the next piece, whether nothing but the string's end matters in it)."""
    if len(rest) <= KEPT_STRING_BYTES:
        return rest, False
    escaping = (len(rest) - len(rest.rstrip(b"\\"))) % 2 == 1
    return (_LONG + b"\\", False) if escaping else (_LONG, True)
