"""Counting what a JSON text holds, and the text without its long strings."""

from typing import Any

import msgspec
import pytest
from ams_common.outline import MOST_STRUCTURES, MOST_VALUES, Outline, TooMuchJson, check_json_size
from hypothesis import example, given
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=600),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=300), inner, max_size=5),
    max_leaves=12,
)


def _outline(data: bytes, step: int) -> bytes:
    outline = Outline(keep=True)
    for at in range(0, len(data), step):
        outline.feed(data[at : at + step])
    return outline.text()


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(msgspec.json.encode(value)) <= 256 else ""
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    if isinstance(value, dict):
        return {_shortened(key): _shortened(item) for key, item in value.items()}
    return value


@given(JSON, st.integers(1, 700))
@example("\\" * 400 + '"' * 400, 1)
@example({"a": 'x"' * 300, "b": "\\"}, 257)
def test_an_outline_is_the_value_without_its_long_texts_however_it_comes(value: Any, step: int) -> None:
    assert msgspec.json.decode(_outline(msgspec.json.encode(value), step)) == _shortened(value)


def test_an_outline_of_media_is_short() -> None:
    assert _outline(b'{"model": "m",  \n\n "x": ["' + b"A" * 3_000_000 + b'", 1]}', 65_536) == (
        b'{"model": "m", "x": ["", 1]}'
    )


def test_what_is_cut_off_stays_cut_off() -> None:
    for data in (b'{"model":"m', b'{"model":"' + b"m" * 1000, b'{"a":"\\', b"{" + b" " * 1000):
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(_outline(data, 7))


MANY = {
    "objects": b"[" + b"{}," * MOST_STRUCTURES + b"1]",
    "arrays": b"[" * (MOST_STRUCTURES + 1),
    "keys": b"{" + b'"k":1,' * (MOST_STRUCTURES + 1) + b"}",
    "numbers": b"[" + b"1," * (MOST_VALUES + 1) + b"1]",
    "texts": b"[" + b'"",' * (MOST_VALUES + 1) + b"1]",
}


@pytest.mark.parametrize("data", MANY.values(), ids=MANY.keys())
def test_too_much_is_noticed_whole_and_in_pieces(data: bytes) -> None:
    with pytest.raises(TooMuchJson):
        check_json_size(data)
    with pytest.raises(TooMuchJson):
        _outline(data, 1000)


def test_structural_characters_in_texts_do_not_count() -> None:
    check_json_size(msgspec.json.encode({"x": '[{":,' * 300_000}))
    check_json_size(b"[" + b"1," * (MOST_VALUES - 1) + b"1]")


def test_depth_counts_what_is_open() -> None:
    check_json_size(b"[" + b"[]," * 100 + b"1]", depth=2)
    with pytest.raises(TooMuchJson, match="nested more than 2 levels"):
        check_json_size(b"[[[1]]]" + b" " * 10, depth=2)
