"""How failures are told, and how long is waited: tables of cases."""

import errno
import json

import pytest
from ams_common.progress import Failure
from ams_pod.download.backoff import next_delay, retry_after_seconds
from ams_pod.download.failures import encode, redact, volume_refused
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "DiskFull"),
        (errno.EDQUOT, "DiskFull"),
        (errno.EROFS, "VolumeNotWritable"),
        (errno.EACCES, "VolumeNotWritable"),
    ],
)
def test_an_error_of_the_volume_is_named(number: int, reason: str) -> None:
    failure = volume_refused("/models", OSError(number, "whatever")).failure
    assert failure.reason == reason
    assert "/models" in failure.message


def test_a_failure_is_one_line_of_json() -> None:
    line = encode(Failure("DiskFull", "no\nspace", True))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"reason": "DiskFull", "message": "no\nspace", "retryable": True}


@given(st.text(max_size=5000))
def test_a_failure_is_never_longer_than_kubernetes_reads(message: str) -> None:
    line = encode(Failure("DownloadFailed", message))
    assert len(line) <= 2000
    assert json.loads(line)["reason"] == "DownloadFailed"


def test_secrets_are_taken_out() -> None:
    text = "GET https://user:pass@index.example/a?X-Signature=abc with hf_token failed"
    assert redact(text, ["hf_token", ""]) == "GET https://***@index.example/a?*** with *** failed"


@pytest.mark.parametrize(
    ("value", "limit", "seconds"),
    [
        (None, None, None),
        ("7", None, 7.0),
        ("7", '"api";r=0;t=55', 55.0),
        ("7", '"api";r=10;t=55', 7.0),
        ("Thu, 01 Jan 1970 00:01:40 GMT", None, 40.0),
        ("soon", None, None),
    ],
)
def test_reads_what_a_server_asks_for(value: str | None, limit: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(value, limit, now=60.0) == seconds


@given(st.integers(1, 100), st.floats(0, 600), st.floats(0, 1, exclude_max=True), st.none() | st.floats(0, 1000))
def test_waits_as_told_and_never_past_the_patience(
    attempt: int, idle: float, chance: float, retry_after: float | None
) -> None:
    delay = next_delay(attempt, idle, 300.0, retry_after, chance)
    if delay is not None:
        assert 0 <= delay <= 300.0 - idle
        assert retry_after is None or delay >= retry_after


def test_waits_grow_and_spread() -> None:
    delays = [next_delay(attempt, 0, 1e9, None, 0.0) for attempt in range(1, 9)]
    assert delays == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0]
    assert next_delay(1, 0, 1e9, None, 0.5) == 0.375
    assert next_delay(1, 0, 0.0, None, 0.0) is None
