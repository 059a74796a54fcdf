"""When an engine counts as hung. Pure: times come in as arguments, monotonic seconds."""

from dataclasses import dataclass

from ams_pod.engines.port import RestartReason

SILENT_SECONDS = 15.0
"""For so long an engine may leave its health route and all its requests without a byte."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What was seen of an engine. `running_since` is when it last went from nothing to do to something, None: nothing.

    `progress_at` is when a request last got something, or began; `answered_at` when it last answered anything at all.
    """

    answered_at: float
    progress_at: float
    running_since: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`reason` to end the engine, and what to tell of it."""

    reason: RestartReason
    sentence: str


def verdict(signs: Signs, now: float, stall_seconds: float) -> Verdict | None:
    """None while there is nothing to complain of. `stall_seconds` 0: requests may take as long as they like."""
    heard = max(signs.answered_at, signs.progress_at)
    if now - heard > SILENT_SECONDS:
        return Verdict("silent", f"it has answered nothing for {now - heard:.0f} s, not even its health route")
    if signs.running_since is not None and stall_seconds:
        waited = now - max(signs.progress_at, signs.running_since)
        if waited > stall_seconds:
            return Verdict("stalled", f"requests run, and none got a token for {waited:.0f} s")
    return None
