"""What goes into headers and log lines."""

import pytest
from ams_common.printable import printable
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("top_p, min_p", "top_p, min_p"),
        ("a\nb", "a\\nb"),
        ("a\r\nSet-Cookie: x", "a\\r\\nSet-Cookie: x"),
        ("é\u2028\x1b[31m\x00", "\\xe9\\u2028\\x1b[31m\\x00"),
        ("\udcff", "\\udcff"),
        ("x" * 2000, "x" * 1000),
    ],
)
def test_a_text_becomes_one_line(given: str, expected: str) -> None:
    assert printable(given) == expected


@given(st.text())
def test_any_text(text: str) -> None:
    cleaned = printable(text, 20)
    assert cleaned.isascii()
    assert not cleaned or cleaned.isprintable()
    assert len(cleaned) <= 20
