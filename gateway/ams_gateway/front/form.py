"""The few texts that routing needs of a multipart form, read without copying what lies between them."""

import mmap
import re
from collections.abc import Collection, Iterator

from ams_common.errors import ApiError

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.I)
_NAME = re.compile(rb';\s*name=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))', re.I)
_LONGEST_HEAD = 8 << 10
_LONGEST_TEXT = 64 << 10
_MOST_PARTS = 64


def boundary_of(content_type: str | None) -> bytes:
    """The boundary of a multipart/form-data body; ApiError `unsupported_media_type` if it is none."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise ApiError(
            "unsupported_media_type",
            f"The body must be a form: send Content-Type: multipart/form-data, not {kind[:100]!r}.",
            headers={"Accept": "multipart/form-data"}, given=kind[:100], allowed=["multipart/form-data"],
        )  # fmt: skip
    if (match := _BOUNDARY.search(content_type or "")) is None:
        raise ApiError("invalid_parameter", "The form can't be read: its Content-Type has no boundary.")
    return (match[1] or match[2]).encode()


def texts_of(body: "bytes | mmap.mmap", boundary: bytes, names: Collection[str]) -> dict[str, str]:
    """The values of these fields, as far as they are there; of several with one name the first."""
    texts: dict[str, str] = {}
    for name, begin, end in _parts(body, boundary):
        if len(texts) == len(names):
            break
        if end >= 0 and name in names and name not in texts and end - begin <= _LONGEST_TEXT:
            texts[name] = body[begin:end].decode("utf-8", "replace")
    return texts


def has_part(body: "bytes | mmap.mmap", boundary: bytes, name: str) -> bool:
    """Whether there is a part of this name."""
    return any(each == name for each, _, _ in _parts(body, boundary))


def _parts(body: "bytes | mmap.mmap", boundary: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, begin, end) of each part's value; the end is below 0 for one that has none."""
    delimiter = b"--" + boundary
    at = body.find(delimiter)
    for _ in range(_MOST_PARTS):
        if at < 0:
            break
        begin = at + len(delimiter)
        head_end = body.find(b"\r\n\r\n", begin, begin + _LONGEST_HEAD)
        if head_end < 0:
            break
        at = body.find(b"\r\n" + delimiter, head_end)
        yield _name(body[begin:head_end]), head_end + 4, at
        at += 2 if at >= 0 else 0


def _name(head: bytes) -> str:
    if (match := _NAME.search(head)) is None:
        return ""
    return (match[1] or match[2] or b"").decode("utf-8", "replace")
