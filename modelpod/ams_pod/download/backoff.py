"""When a download tries again, or gives up. Pure: time and chance come in as arguments."""

from ams_common.backoff import backoff_seconds

_FIRST_SECONDS = 0.5
_LONGEST_SECONDS = 30.0


def next_delay(attempt: int, idle: float, patience: float, retry_after: float | None, chance: float) -> float | None:
    """Seconds to wait before try number `attempt` (from 1) after a failed one; None to give up.

    `idle` is how long nothing was received, `patience` the most of that; `retry_after` is what the server asked for,
    never undercut; `chance` in [0, 1) spreads clients apart. A wait that would outlast the patience is no use.
    """
    if retry_after is not None:
        delay = retry_after * (1 + 0.1 * chance)
    else:
        delay = backoff_seconds(attempt, chance, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)
    return delay if idle + delay <= patience else None


def retry_after_seconds(value: str | None, limit: str | None, now: float) -> float | None:
    """What a server asked for, from its Retry-After (seconds or a date) or RateLimit (`"api";r=0;t=55`) header."""
    if limit is not None and "r=0" in limit.replace(" ", ""):
        for part in limit.replace(" ", "").split(";"):
            if part.startswith("t=") and part[2:].isdigit():
                return float(part[2:])
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value.strip())
    from email.utils import parsedate_to_datetime  # a rare form

    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None
