"""The few texts that routing needs of a multipart form, read without copying what lies between them."""

import mmap
import re
from collections.abc import Collection

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
    delimiter = b"--" + boundary
    texts: dict[str, str] = {}
    at = body.find(delimiter)
    for _ in range(_MOST_PARTS):
        if at < 0 or len(texts) == len(names):
            break
        begin = at + len(delimiter)
        head_end = body.find(b"\r\n\r\n", begin, begin + _LONGEST_HEAD)
        if head_end < 0:
            break
        at = body.find(b"\r\n" + delimiter, head_end)
        name = _name(body[begin:head_end])
        if at >= 0 and name in names and name not in texts and at - head_end <= _LONGEST_TEXT:
            texts[name] = body[head_end + 4 : at].decode("utf-8", "replace")
        at += 2 if at >= 0 else 0
    return texts


def _name(head: bytes) -> str:
    if (match := _NAME.search(head)) is None:
        return ""
    return (match[1] or match[2] or b"").decode("utf-8", "replace")
