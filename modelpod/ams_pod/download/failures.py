"""Why a download ends, in words: every failure has a reason, a sentence that says what to do, and a retry hint."""

import errno
import re
from collections.abc import Iterable

import msgspec
from ams_common.progress import Failure

LONGEST_LINE = 2000  # bytes; Kubernetes keeps the tail of longer termination messages

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"(https?://[^\s?'\"]+)\?[^\s'\"]+")


class Failed(Exception):
    """A download that can't go on; carries what the person reads."""

    def __init__(self, reason: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message, retryable)


class Interrupted(Exception):
    """A transfer that broke off and may be tried again; `retry_after` is in seconds, if the server named a time."""

    def __init__(self, failed: Failed, retry_after: float | None = None) -> None:
        super().__init__(str(failed))
        self.failed = failed
        self.retry_after = retry_after


def size_text(count: int) -> str:
    """A number of bytes for a person: `2.9 GiB`."""
    if count < 1024:
        return f"{count} bytes"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.1f} {unit}"
    return f"{value / 1024:.1f} TiB"


def hub_answered(
    status: int, code: str | None, words: str | None, *, repository: str, revision: str | None, hub: str, token: bool
) -> Failed:
    """What an error status of the hub means. `code` and `words` are its X-Error-Code and X-Error-Message headers."""
    page = f"{hub.rstrip('/')}/{repository}"
    if code == "GatedRepo":
        step = (
            "the token's account has no access yet: ask for it there and wait until it is granted"
            if token
            else "accept its terms there and give a token (spec.model.tokenSecretRef, or HF_TOKEN)"
        )
        return Failed("GatedModel", f"{repository} is gated; see {page}: {step}.")
    if code == "RevisionNotFound":
        return Failed(
            "RevisionNotFound", f"{repository} has no revision {revision!r}; see {page}/refs for what it has."
        )
    if status == 401 and token and code != "RepoNotFound":
        return Failed("BadToken", f"The hub refused the token (401) for {repository}; give one that is valid.")
    if code == "EntryNotFound":
        return Failed("ModelNotFound", f"A file of {repository} at {revision} is listed but can't be fetched (404).")
    if status in (401, 404) or words == "Access to this resource is disabled.":
        step = (
            "the token's account may not be allowed to see it"
            if token
            else "a private model needs a token (spec.model.tokenSecretRef, or HF_TOKEN)"
        )
        return Failed("ModelNotFound", f"The hub has no model {repository}, or hides it: check the name; {step}.")
    if status == 403:
        step = "give one with read access to it" if token else "give a token (spec.model.tokenSecretRef, or HF_TOKEN)"
        return Failed("BadToken", f"The hub refuses access to {repository} (403); {step}.")
    if status == 429:
        return Failed(
            "HubRateLimited",
            f"The hub limits the rate of requests (429) for {repository}; it goes on when tried again later"
            + ("." if token else ", and a token raises the limit."),
            retryable=True,
        )
    if status >= 500 or status == 408:
        return Failed(
            "HubUnreachable", f"The hub at {hub} failed ({status}) for {repository}; try again later.", retryable=True
        )
    return Failed("HubRefused", f"The hub at {hub} refused the request ({status}) for {repository}.")


def hub_silent(hub: str, error: Exception) -> Failed:
    """No usable answer: no connection, a cut one, or a time-out."""
    cause = str(error) or type(error).__name__
    return Failed(
        "HubUnreachable",
        f"The hub at {hub} can't be reached ({cause}); check the network, proxy and HF_ENDPOINT.",
        retryable=True,
    )


def disk_full(folder: str, *, needed: int, free: int) -> Failed:
    return Failed(
        "DiskFull",
        f"{folder} has {size_text(free)} free and {size_text(needed)} more are needed;"
        " enlarge the volume (spec.cache.size) or remove what isn't used.",
    )


def volume_refused(folder: str, error: OSError) -> Failed:
    """An operating system's error while writing to the models volume."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed("DiskFull", f"{folder} is full; enlarge the volume (spec.cache.size) or remove what isn't used.")
    return Failed(
        "VolumeNotWritable",
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
