"""Base64 as clients write it, and the place where it is wrong."""

import base64
import re

import pytest
from ams_common.errors import ApiError
from ams_pod.media.base64text import decoded_base64
from hypothesis import given
from hypothesis import strategies as st


def _bytes(text: str) -> bytes:
    return b"".join(decoded_base64(text, "image[1]"))


@given(st.binary(max_size=400))
def test_every_way_to_write_it(data: bytes) -> None:
    plain, safe = base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode()
    for text in (plain, safe):
        for written in (text, text.rstrip("="), text + "\n", f" {text}", re.sub("(.{20})", r"\1\r\n", text)):
            assert _bytes(written) == data
        for head in ("data:image/png;base64,", "data:;base64,", "DATA:image/png;charset=x;BASE64,", " data:;base64,"):
            assert _bytes(head + text) == data


def test_line_breaks_across_pieces() -> None:
    data = bytes(range(256)) * 8192
    text = base64.encodebytes(data).decode()
    assert len(text) > 2 << 20
    assert _bytes(text) == data
    assert max(map(len, decoded_base64(text, "image"))) < 1 << 17


def test_data_uris_without_base64() -> None:
    assert _bytes("data:text/plain,a%20b") == b"a b"
    assert _bytes("data:,") == b""


@pytest.mark.parametrize(
    ("text", "says", "position"),
    [
        ("AAAA*AAA", "character '*' at position 4 is not base64", 4),
        ("data:image/png;base64,AA€A", "character '€' at position 24 is not base64", 24),
        ("AA=AAAAA", "character '=' at position 2", 2),
        ("A" * (1 << 20) + "BB!B", "character '!' at position 1048578", (1 << 20) + 2),
        ("AAAAA", "it ends in the middle of a byte, so it was cut off", None),
        ("C:\\images\\cat.png", "character ':' at position 1", 1),
        ("data:image/png;base64", "needs a comma in front of its data", None),
        ("\ud800".encode("utf-8", "replace").decode() + "é", "is not base64", 0),
    ],
)
def test_what_is_wrong_is_told(text: str, says: str, position: int | None) -> None:
    with pytest.raises(ApiError) as caught:
        _bytes(text)
    error = caught.value
    assert (error.code, error.status, error.param) == ("invalid_base64", 400, "image[1]")
    assert error.message.startswith("image[1] must be base64 or a data URI: ")
    assert says in error.message or position == 0
    assert error.details.get("position") == position


@given(st.text(max_size=60))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        _bytes(text)
    except ApiError as error:
        assert error.code == "invalid_base64"  # noqa: PT017
