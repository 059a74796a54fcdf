"""Heads of GGUF files: what any model has passes, and what would cost more than its bytes doesn't."""

import struct
from pathlib import Path

import pytest
from ams_pod.engines.builtin.model.gguf_header import BadHeader, check_header
from fakehub.tiny_gguf import make_gguf


def head(*fields: bytes, version: int = 3, tensors: int = 0, count: int | None = None) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, len(fields) if count is None else count) + b"".join(fields)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(kind: int, value: bytes) -> bytes:
    return text(b"name") + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return field(9, struct.pack("<IQ", kind, count) + values)


def test_a_real_file_passes(tmp_path: Path) -> None:
    check_header(make_gguf(tmp_path / "tiny.gguf"))


@pytest.mark.parametrize(
    "content",
    [
        head(),
        head(version=2),
        head(field(8, text(b"llama")), field(4, b"\1\0\0\0"), field(12, bytes(8)), field(7, b"\1")),
        head(array(8, 2, text(b"a") + text(b"")), array(6, 3, bytes(12)), array(0, 0)),
    ],
)
def test_what_is_whole_passes(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    check_header(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no magic number"),
        (b"GGUF", "ends too early"),
        (head(version=1), "version 1"),
        (head(count=1 << 60), "fields"),
        (head(tensors=1 << 60), "tensors"),
        (head(count=3), "ends too early"),
        (head(field(77, b"")), "unknown kind 77"),
        (head(array(77, 1)), "unknown kind 77"),
        (head(field(8, struct.pack("<Q", 1 << 62))), "a text of"),
        (head(field(4, b"\1")), "ends too early"),
        (head(array(9, 1, bytes(100))), "arrays in arrays"),
        (head(array(0, 8_000_001, bytes(100))), "more than 8,000,000 elements"),
        (head(array(0, 7_999_999, bytes(100))), "ends too early"),
        (head(array(8, 5, text(b"a"))), "ends too early"),
        (head(struct.pack("<Q", 1 << 17) + bytes(1 << 17)), "a text of"),
    ],
)
def test_what_claims_too_much_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    with pytest.raises(BadHeader, match=words):
        check_header(path)
