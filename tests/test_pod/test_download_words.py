"""How failures are told, and how long is waited: tables of cases."""

import errno
import json

import pytest
from ams_common.progress import Failure
from ams_pod.download.backoff import next_delay, retry_after_seconds
from ams_pod.download.failures import encode, hub_answered, redact, size_text, volume_refused
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("status", "code", "words", "token", "reason", "retryable", "advice"),
    [
        (401, "GatedRepo", "restricted", False, "GatedModel", False, "accept its terms"),
        (403, "GatedRepo", "not in the authorized list", True, "GatedModel", False, "ask for it there"),
        (401, None, "Invalid credentials in Authorization header", True, "BadToken", False, "valid"),
        (403, None, None, True, "BadToken", False, "read access"),
        (403, None, None, False, "BadToken", False, "give a token"),
        (401, None, "Invalid username or password.", False, "ModelNotFound", False, "check the name"),
        (404, "RepoNotFound", "Repository not found", True, "ModelNotFound", False, "account may not"),
        (404, "RevisionNotFound", "Invalid rev id", False, "RevisionNotFound", False, "no revision 'v1'"),
        (404, "EntryNotFound", "Entry not found", False, "ModelNotFound", False, "listed but"),
        (403, None, "Access to this resource is disabled.", False, "ModelNotFound", False, "hides it"),
        (429, None, None, False, "HubRateLimited", True, "a token raises the limit"),
        (500, None, None, False, "HubUnreachable", True, "later"),
        (503, None, None, False, "HubUnreachable", True, "later"),
        (408, None, None, False, "HubUnreachable", True, "later"),
        (418, None, None, False, "HubRefused", False, "418"),
    ],
)
def test_an_answer_becomes_a_reason_and_advice(
    status: int, code: str | None, words: str | None, token: bool, reason: str, retryable: bool, advice: str
) -> None:
    failure = hub_answered(
        status, code, words, repository="acme/m", revision="v1", hub="https://hub.example", token=token
    ).failure
    assert (failure.reason, failure.retryable) == (reason, retryable)
    assert advice in failure.message
    assert "acme/m" in failure.message


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


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 1536, 3 << 30, 5 << 40)] == [
        *("0 bytes", "1023 bytes", "1.5 KiB", "3.0 GiB", "5.0 TiB"),
    ]


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
