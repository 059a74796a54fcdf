"""JSON from outside: whatever the bytes are, there is a value or InvalidJson."""

from typing import Any

import msgspec
import pytest
from ams_common.demand import DemandReport
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress
from hypothesis import given
from hypothesis import strategies as st

HOSTILE = {
    "no UTF-8 in a text": b'{"phase":"downloading","message":"\xff"}',
    "no UTF-8 in a key": b'{"\xff":1}',
    "no UTF-8 in an unknown field": b'{"phase":"ready","x":{"a":"\xfe\xff"}}',
    "60,000 brackets": b'{"phase":"downloading","x":' + b"[" * 60_000,
    "60,000 objects": b'{"x":' + b'{"a":' * 60_000 + b"1" + b"}" * 60_000 + b"}",
    "deep, and valid": b'{"x":' + b"[" * 500 + b"]" * 500 + b"}",
    "a million empty arrays": b'{"x":[' + b"[]," * 1_000_000 + b"[]]}",
    "a million keys": b"{" + b",".join(b'"k%d":0' % number for number in range(300_000)) + b"}",
    "a number of 5,000 digits": b'{"x":' + b"9" * 5_000 + b"}",
    "a number out of range": b'{"x":1e999}',
    "a lone surrogate": b'{"message":"\\ud800"}',
    "cut off": b'{"phase":"rea',
    "nothing": b"",
    "HTML": b"<html><body>502</body></html>",
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "UTF-16": '{"phase":"ready"}'.encode("utf-16"),
    "NaN": b'{"percent":NaN}',
    "a surrogate in a str": '{"message":"\ud800"}',
}


@pytest.mark.parametrize("document", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("type_", [Progress, DemandReport, Any, dict[str, Any], list[int]], ids=str)
def test_a_hostile_document_is_a_value_or_one_typed_error(document: bytes | str, type_: Any) -> None:
    complaint = ""
    try:
        msgspec.json.encode(read_json(document, type_))
    except InvalidJson as error:
        complaint = str(error)
    assert complaint == "" or complaint.isprintable()


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (b'{"phase":"downloading","message":"\xff"}', "is not valid JSON: it is not UTF-8"),
        (b'{"phase":"downloading","x":' + b"[" * 60_000, "is nested more than 64 levels deep"),
        (b"[" + b"[]," * 300_000 + b"1]", "holds more than 200,000 arrays, objects and keys"),
        (b'{"phase":"downl', "is not valid JSON: Input data was truncated"),
        (b"[]", "is not what was expected: Expected `object`, got `array`"),
        (b'{"message":"x"}', "is not what was expected: Object missing required field `phase`"),
        (b" " * (5 << 20), "is larger than 4,194,304 bytes"),
    ],
)
def test_the_error_says_what_is_wrong(document: bytes, why: str) -> None:
    with pytest.raises(InvalidJson) as refused:
        read_json(document, Progress)
    assert str(refused.value) == why


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview, msgspec.Raw, bytes.decode])
def test_every_kind_of_bytes_is_read(wrap: Any) -> None:
    assert read_json(wrap(b'{"version":3,"models":{}}'), DemandReport) == DemandReport(3, {})


def test_brackets_in_texts_are_no_depth() -> None:
    assert read_json(msgspec.json.encode({"x": "[{" * 1000})) == {"x": "[{" * 1000}


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    for type_ in (Progress, DemandReport, Any):
        try:
            read_json(data, type_)
        except InvalidJson:
            continue
