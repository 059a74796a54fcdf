"""Whether the head of a GGUF file is one that may be read: its counts and lengths against what it has.

The reader of the gguf package makes an object of every element, and a list of all of them for each level of nested
arrays, so that a file of 200 KB may take gigabytes. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
from pathlib import Path
from typing import BinaryIO

_MOST_FIELDS = 10_000
_MOST_TENSORS = 200_000
_MOST_ELEMENTS = 8_000_000  # of all arrays: a vocabulary with its scores, kinds and merges has a million
_MOST_NAME_BYTES = 1 << 16
_ARRAY, _STRING = 9, 8
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


class BadHeader(ValueError):
    """The message is a clause without a subject."""


class EndsEarly(BadHeader):
    """There is less of the file than its head is long."""

    def __init__(self) -> None:
        super().__init__("ends too early")


def check_header(path: Path, size: int | None = None) -> None:
    """BadHeader if it can't be read, or holds more than any model does; OSError as the file system says.

    `size` is how many bytes the whole file has, where only its beginning is there.
    """
    size = path.stat().st_size if size is None else size
    with open(path, "rb") as file:
        if file.read(4) != b"GGUF":
            raise BadHeader("has no magic number of GGUF")
        version, tensors, fields = struct.unpack("<IQQ", _read(file, 20))
        if version not in (2, 3):
            raise BadHeader(f"is of version {version}, not 2 or 3")
        if tensors > _MOST_TENSORS or fields > _MOST_FIELDS:
            raise BadHeader(f"says that it has {tensors:,} tensors and {fields:,} fields")
        elements = 0
        for _ in range(fields):
            _skip_text(file, size, _MOST_NAME_BYTES)
            elements += _skip_value(file, size, _MOST_ELEMENTS - elements)


def _skip_value(file: BinaryIO, size: int, allowed: int) -> int:
    """How many elements of an array were passed."""
    kind = _number(file, "<I", 4)
    if kind != _ARRAY:
        _skip_scalar(file, size, kind)
        return 0
    inner, count = struct.unpack("<IQ", _read(file, 12))
    if inner == _ARRAY:
        raise BadHeader("has arrays in arrays")
    if count > allowed:
        raise BadHeader(f"has arrays of more than {_MOST_ELEMENTS:,} elements")
    if inner == _STRING:
        for _ in range(count):
            _skip_text(file, size, size)
    else:
        _skip(file, size, count * _size_of(inner))
    return int(count)


def _skip_scalar(file: BinaryIO, size: int, kind: int) -> None:
    if kind == _STRING:
        _skip_text(file, size, size)
    else:
        _skip(file, size, _size_of(kind))


def _size_of(kind: int) -> int:
    if kind not in _SIZES:
        raise BadHeader(f"has a value of the unknown kind {kind}")
    return _SIZES[kind]


def _skip_text(file: BinaryIO, size: int, most: int) -> None:
    length = _number(file, "<Q", 8)
    if length > most:
        raise BadHeader(f"has a text of {length:,} bytes")
    _skip(file, size, length)


def _skip(file: BinaryIO, size: int, count: int) -> None:
    if file.tell() + count > size:
        raise EndsEarly
    file.seek(count, 1)


def _number(file: BinaryIO, form: str, size: int) -> int:
    value: int
    (value,) = struct.unpack(form, _read(file, size))
    return value


def _read(file: BinaryIO, count: int) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise EndsEarly
    return data
