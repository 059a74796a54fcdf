"""What a GGUF file holds: its metadata, and where each tensor lies. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Read in one pass, as bytes: the reader of the gguf package makes several objects of every token of a vocabulary.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ams_pod.engines.builtin.model.gguf_header import BadHeader, EndsEarly, check_header

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_MOST_ALIGNMENT = 1 << 20

# Values of a block and the bytes that hold them, of each kind of tensor.
BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "F64": (1, 8), "I8": (1, 1), "I16": (1, 2), "I32": (1, 4),
    "I64": (1, 8), "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34),
    "Q8_1": (32, 36), "Q2_K": (256, 84), "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176),
    "Q6_K": (256, 210), "Q8_K": (256, 292),
}  # fmt: skip
_KINDS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 30: "BF16",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """`shape` has the fastest dimension last. `start` and `size` are bytes of the file; 0 of an unknown kind."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def values(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Everything but the tensors' values."""

    path: Path
    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]

    @property
    def parameters(self) -> int:
        return sum(tensor.values for tensor in self.tensors)

    def number(self, name: str) -> int | None:
        """A whole number of the metadata; None where there is none of that name."""
        value = self.metadata.get(name)
        return value if type(value) is int else None


def read_gguf(path: Path, size: int | None = None) -> GgufFile:
    """BadHeader for a file that isn't one, or holds more than any model does; OSError as the file system says.

    `size` is how many bytes the whole file has, where `path` holds only its beginning; EndsEarly if that is too little.
    """
    check_header(path, size)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        reader = _Reader(mapped)
        reader.at = 8
        tensors, fields = reader.take("QQ")
        metadata = {}
        for _ in range(fields):
            name = reader.text()
            metadata[name] = reader.value(reader.take("I")[0])
        entries = [_entry(reader) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= _MOST_ALIGNMENT:
            raise BadHeader("has an alignment that makes no sense")
        data = -(-reader.at // alignment) * alignment
        placed = tuple(_placed(*entry, data, size or len(mapped)) for entry in entries)
    if len({tensor.name for tensor in placed}) < len(placed):
        raise BadHeader("has two tensors of one name")
    return GgufFile(path, metadata, placed)


def read_floats(file: GgufFile, tensor: GgufTensor) -> NDArray[np.float64]:
    """The values [n] of a tensor of kind F32 with one dimension. OSError as the file system says."""
    with file.path.open("rb") as source:
        source.seek(tensor.start)
        return np.frombuffer(source.read(tensor.size), "<f4").astype(np.float64)


class _Reader:
    """Bytes in their order; `BadHeader` where they end."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def take(self, form: str) -> tuple[Any, ...]:
        try:
            values = struct.unpack_from("<" + form, self.data, self.at)
        except struct.error:
            raise EndsEarly from None
        self.at += struct.calcsize("<" + form)
        return values

    def text(self) -> str:
        (length,) = self.take("Q")
        if self.at + length > len(self.data):
            raise EndsEarly
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind in _NUMBERS:
            return self.take(_NUMBERS[kind])[0]
        inner, count = self.take("IQ")  # an array: `check_header` knows all kinds, and that it holds no arrays
        if inner == _STRING:
            return [self.text() for _ in range(count)]
        return list(self.take(f"{count}{_NUMBERS[inner]}"))


def _entry(reader: _Reader) -> tuple[str, tuple[int, ...], int, int]:
    name = reader.text()
    (dimensions,) = reader.take("I")
    if dimensions > _MOST_DIMENSIONS:
        raise BadHeader(f"has a tensor of {dimensions} dimensions")
    shape = reader.take(f"{dimensions}Q")
    kind, offset = reader.take("IQ")
    return name, tuple(reversed(shape)), kind, offset


def _placed(name: str, shape: tuple[int, ...], number: int, offset: int, data: int, end: int) -> GgufTensor:
    kind = _KINDS.get(number)
    if kind is None:
        return GgufTensor(name, f"kind {number}", shape, 0, 0)
    values, size = BLOCKS[kind]
    if shape and shape[-1] % values:
        raise BadHeader(f"has a tensor of kind {kind} with rows of {shape[-1]} values")
    start, size = data + offset, math.prod(shape) // values * size
    if start + size > end:
        raise BadHeader("ends before its tensors do")
    return GgufTensor(name, kind, shape, start, size)
