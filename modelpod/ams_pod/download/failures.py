"""Why a download ends: every failure has a reason, a sentence that says what to do, and a retry hint."""

import errno
import re
from collections.abc import Iterable
from typing import Self

import msgspec
from ams_common.progress import Failure
from ams_common.quantity import format_bytes
from ams_common.reasons import Reason

LONGEST_LINE = 2000  # bytes; Kubernetes keeps the tail of longer termination messages

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


class Failed(Exception):
    """A download that can't go on; carries what the person reads."""

    def __init__(self, reason: Reason, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message, retryable)

    @classmethod
    def of(cls, failure: Failure) -> Self:
        return cls(Reason(failure.reason), failure.message, retryable=failure.retryable)


class Interrupted(Exception):
    """A transfer that broke off and may be tried again; `retry_after` is in seconds, if the server named a time."""

    def __init__(self, failed: Failed, retry_after: float | None = None) -> None:
        super().__init__(str(failed))
        self.failed = failed
        self.retry_after = retry_after


def disk_full(folder: str, *, needed: int, free: int) -> Failed:
    return Failed(
        Reason.DISK_FULL,
        f"{folder} has {format_bytes(free)} free and {format_bytes(needed)} more are needed;"
        " enlarge the volume (spec.cache.size) or remove what isn't used.",
    )


def volume_refused(folder: str, error: OSError, missing: int | None = None) -> Failed:
    """An operating system's error while writing to the models volume, when `missing` bytes weren't there yet."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed = f" and {format_bytes(missing)} more are needed" if missing else ""
        return Failed(
            Reason.DISK_FULL,
            f"{folder} is full{needed}; enlarge the volume (spec.cache.size) or remove what isn't used.",
        )
    return Failed(
        Reason.VOLUME_NOT_WRITABLE,
        f"{folder} can't be used ({error.strerror or error}); the volume must be writable for this user.",
    )


def redact(text: str, secrets: Iterable[str]) -> str:
    """The text without tokens, credentials in addresses and query strings (signed addresses)."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("***@", text))


def encode(failure: Failure) -> bytes:
    """One JSON line of at most 2,000 bytes; the sentence is cut where it would be longer."""
    message = failure.message
    line = _line(failure, message)
    while len(line) > LONGEST_LINE:
        message = message[: len(message) - max(1, (len(line) - LONGEST_LINE) // 6)]
        line = _line(failure, message.rstrip() + "…")
    return line


def _line(failure: Failure, message: str) -> bytes:
    # Written out in full: who reads the line needn't know our defaults.
    fields = {"reason": failure.reason, "message": message, "retryable": failure.retryable}
    return msgspec.json.encode(fields) + b"\n"
