"""Usage that no gateway heard: what a pod writes can be read, and nothing else."""

import msgspec
import pytest
from ams_common.outside import InvalidJson, read_json
from ams_common.request_usage import RequestUsage
from ams_common.undelivered import MOST_AT_ONCE, MOST_BYTES, UndeliveredUsages, undelivered

USAGE = RequestUsage(prompt_tokens=12, completion_tokens=3, media=1, compute_seconds=0.25)


def test_what_is_written_is_read() -> None:
    entry = undelivered("r-1", "k-1", USAGE, 1_700_000_000)
    data = msgspec.json.encode(UndeliveredUsages(usage=(entry,), more=True, dropped=4))
    found = read_json(data, UndeliveredUsages, max_bytes=MOST_BYTES)
    assert (found.usage, found.more, found.dropped) == ((entry,), True, 4)
    assert (entry.usage, entry.key_id, entry.rest) == (USAGE, "k-1", False)


def test_whatever_a_request_was_its_entry_is_within_bounds() -> None:
    wild = RequestUsage(prompt_tokens=10**15, completion_tokens=10**15, media=10**12, compute_seconds=1e300)
    entry = undelivered("é\n" * 500, "k" * 500, wild, -5, rest=True)
    assert read_json(msgspec.json.encode(UndeliveredUsages(usage=(entry,))), UndeliveredUsages).usage == (entry,)


def test_as_many_as_fit_one_answer() -> None:
    entry = undelivered("r" * 128, "k" * 128, RequestUsage(prompt_tokens=10**12, completion_tokens=10**12), 10**10)
    data = msgspec.json.encode(UndeliveredUsages(usage=(entry,) * MOST_AT_ONCE))
    assert len(data) <= MOST_BYTES
    assert len(read_json(data, UndeliveredUsages, max_bytes=MOST_BYTES).usage) == MOST_AT_ONCE


@pytest.mark.parametrize(
    "body",
    [
        b'{"usage": [{}]}',
        b'{"usage": [{"request_id": "r", "prompt_tokens": -1}]}',
        b'{"usage": [{"request_id": "r", "compute_seconds": 1e30}]}',
        b'{"usage": [{"request_id": "r", "media": 1e9999}]}',
        b'{"usage": [' + b'{"request_id": "r"},' * MOST_AT_ONCE + b'{"request_id": "r"}]}',
        b'{"usage": [{"request_id": "' + b"r" * 129 + b'"}]}',
        b'{"more": 3}',
        b"[]",
    ],
)
def test_what_isnt_one_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        read_json(body, UndeliveredUsages, max_bytes=MOST_BYTES)
