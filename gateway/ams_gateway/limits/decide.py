"""Whether a request fits into what is left of its user's limits, and what it is told. Pure: time comes in.

Requests and tokens a minute are token buckets: a bucket holds a minute's worth, is full at first and fills all the
time. A request takes one request and the tokens that it asks for, at most a bucket full; when it has ended, the
difference to what it used is given back, or taken too, for which the bucket may be in debt. In one minute, and in any
other stretch of time, no more is used than the bucket held and what flowed into it.
"""

import functools
import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ams_common.errors import ApiError
from ams_common.keys import Policy
from multidict import istr

_SECONDS = 60.0  # of the time that requests and tokens are limited for
_ALMOST = 1e-6  # what computing with fractions may lose: who comes at the very time it was told is let in
_PLACE_SECONDS = 1.0  # nobody knows when a running request ends
_DAY = 86400
# istr: written into headers without being folded to lower case each time.
_LIMIT_REQUESTS, _REMAINING_REQUESTS, _RESET_REQUESTS, _LIMIT_TOKENS, _REMAINING_TOKENS, _RESET_TOKENS = (
    istr(f"X-RateLimit-{what}-{of}") for of in ("Requests", "Tokens") for what in ("Limit", "Remaining", "Reset")
)


class Bucket(NamedTuple):
    """Holds `capacity` at most and fills by `rate` a second."""

    capacity: float
    rate: float


class Bounds(NamedTuple):
    """What binds a user; None doesn't."""

    requests: Bucket | None
    tokens: Bucket | None
    concurrent: int | None
    monthly: int | None


class Levels(NamedTuple):
    """What was in the buckets at the time `at`, in seconds of any clock that goes evenly; less than 0 is debt."""

    requests: float
    tokens: float
    at: float


class Standing(NamedTuple):
    """A user now: levels, requests that are running, tokens that this month used."""

    levels: Levels
    running: int
    month_tokens: int


class Month(NamedTuple):
    """A calendar month in UTC: its number (12 times the year, plus 0 to 11), and its ends in Unix time."""

    number: int
    start: int
    end: int


class Shortage(NamedTuple):
    """A limit that a request doesn't fit into, and in how many seconds it will if nobody else comes."""

    limit: str  # "requests", "tokens", "concurrent" or "month"
    seconds: float


def bounds_of(policy: Policy, gateways: int = 1) -> Bounds:
    """What binds a user at one of so many gateways that don't know of each other: a part of what is used over time,
    and the whole month, of which what the others use has to be guessed. A part is never less than one request, as else
    nobody would be let in at all."""
    return Bounds(
        _bucket(policy.requests_per_minute, gateways),
        _bucket(policy.tokens_per_minute, gateways),
        None if policy.concurrent_requests is None else max(1, policy.concurrent_requests // gateways),
        policy.monthly_tokens,
    )


def _bucket(limit: int | None, gateways: int) -> Bucket | None:
    if limit is None:
        return None
    return Bucket(max(1.0, limit / gateways), limit / gateways / _SECONDS)


def full(bounds: Bounds, now: float) -> Levels:
    return Levels(
        bounds.requests.capacity if bounds.requests else 0.0, bounds.tokens.capacity if bounds.tokens else 0.0, now
    )


def refilled(levels: Levels, bounds: Bounds, now: float) -> Levels:
    """The levels at `now`. Clocks that go back fill nothing."""
    requests, tokens, at = levels
    seconds = now - at if now > at else 0.0
    return Levels(_filled(requests, bounds.requests, seconds), _filled(tokens, bounds.tokens, seconds), now)


def _filled(level: float, bucket: Bucket | None, seconds: float) -> float:
    if bucket is None:
        return 0.0
    level += bucket.rate * seconds
    return level if level < bucket.capacity else bucket.capacity


def parted(levels: Levels, gateways: int) -> Levels:
    """The part of one of so many gateways."""
    return Levels(levels.requests / gateways, levels.tokens / gateways, levels.at)


def added(levels: Levels, bounds: Bounds, requests: float, tokens: float) -> Levels:
    """The levels when so much is given back, or with numbers below 0 taken. What no longer fits in is lost."""
    return Levels(
        _filled(levels.requests + requests, bounds.requests, 0.0),
        _filled(levels.tokens + tokens, bounds.tokens, 0.0),
        levels.at,
    )


def reserved(bounds: Bounds, asked: int) -> float:
    """The tokens that a request takes which asks for so many: never more than there ever are."""
    if (bucket := bounds.tokens) is None:
        return 0.0
    return float(asked) if asked < bucket.capacity else bucket.capacity


def taken(levels: Levels, bounds: Bounds, asked: int) -> Levels:
    """The levels when a request was let in."""
    return Levels(
        levels.requests - 1 if bounds.requests else levels.requests,
        levels.tokens - reserved(bounds, asked),
        levels.at,
    )


def fits(standing: Standing, bounds: Bounds, asked: int) -> bool:
    """Whether a request for so many tokens is let in now. script.py has the same rule."""
    levels = standing.levels
    return (
        (bounds.requests is None or levels.requests >= 1 - _ALMOST)
        and (bounds.tokens is None or levels.tokens >= reserved(bounds, asked) - _ALMOST)
        and (bounds.concurrent is None or standing.running < bounds.concurrent)
        and (bounds.monthly is None or standing.month_tokens < bounds.monthly)
    )


def shortages(standing: Standing, bounds: Bounds, asked: int, month_seconds: float) -> list[Shortage]:
    """All limits that keep a request out, the one that does so longest first; `month_seconds` are left of the month."""
    found = []
    levels = standing.levels
    if bounds.monthly is not None and standing.month_tokens >= bounds.monthly:
        found.append(Shortage("month", month_seconds))
    if bounds.concurrent is not None and standing.running >= bounds.concurrent:
        found.append(Shortage("concurrent", _PLACE_SECONDS))
    if bounds.requests is not None and levels.requests < 1 - _ALMOST:
        found.append(Shortage("requests", (1 - levels.requests) / bounds.requests.rate))
    if bounds.tokens is not None and levels.tokens < (needed := reserved(bounds, asked)) - _ALMOST:
        found.append(Shortage("tokens", (needed - levels.tokens) / bounds.tokens.rate))
    return sorted(found, key=lambda shortage: (shortage.limit == "month", shortage.seconds), reverse=True)


def refusal(policy: Policy, standing: Standing, bounds: Bounds, asked: int, now: float) -> ApiError:
    """Why a request that doesn't fit is refused; `now` is Unix time, in seconds."""
    month = month_of(now)
    found = shortages(standing, bounds, asked, month.end - now)
    shortage = found[0] if found else Shortage("requests", _PLACE_SECONDS)
    headers = rate_headers(bounds, standing.levels)
    details: dict[str, Any] = {"limit": shortage.limit, "limited": [each.limit for each in found]}
    if shortage.limit == "month":
        end = datetime.fromtimestamp(month.end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return ApiError(
            "token_limit",
            f"The {policy.monthly_tokens:,} tokens of {policy.name} for this month are used up. The next month starts "
            f"at {end}.",
            retry_after=shortage.seconds, headers=headers,
            **details, monthly_tokens=policy.monthly_tokens, used_tokens=standing.month_tokens, resets_at=end,
        )  # fmt: skip
    headers["Retry-After-Ms"] = str(max(1, math.ceil(shortage.seconds * 1000 - _ALMOST)))
    return ApiError(
        "rate_limited",
        _sentence(policy, shortage, asked),
        retry_after=max(0.0, shortage.seconds - _ALMOST), headers=headers,
        **details, **_numbers(policy, shortage, asked),
    )  # fmt: skip


def _sentence(policy: Policy, shortage: Shortage, asked: int) -> str:
    wait = duration(shortage.seconds)
    if shortage.limit == "concurrent":
        most = policy.concurrent_requests
        return f"{policy.name} may have {most:,} requests running at once. Try again when one of them has ended."
    if shortage.limit == "tokens":
        return (
            f"{policy.name} may use {policy.tokens_per_minute:,} tokens a minute, and this request asks for {asked:,}. "
            f"Try again in {wait}."
        )
    return f"{policy.name} may send {policy.requests_per_minute or 0:,} requests a minute. Try again in {wait}."


def _numbers(policy: Policy, shortage: Shortage, asked: int) -> dict[str, Any]:
    if shortage.limit == "concurrent":
        return {"concurrent_requests": policy.concurrent_requests}
    if shortage.limit == "tokens":
        return {"tokens_per_minute": policy.tokens_per_minute, "asked_tokens": asked}
    return {"requests_per_minute": policy.requests_per_minute}


def rate_headers(bounds: Bounds, levels: Levels) -> dict[str, str]:
    """`X-RateLimit-*` as OpenAI names them: the limit, what is left, and in what time it is whole again."""
    headers: dict[str, str] = {}
    if (bucket := bounds.requests) is not None:
        level = levels.requests
        headers[_LIMIT_REQUESTS] = str(int(bucket.capacity))
        headers[_REMAINING_REQUESTS] = str(int(level + _ALMOST)) if level > 0 else "0"
        headers[_RESET_REQUESTS] = duration((bucket.capacity - level) / bucket.rate)
    if (bucket := bounds.tokens) is not None:
        level = levels.tokens
        headers[_LIMIT_TOKENS] = str(int(bucket.capacity))
        headers[_REMAINING_TOKENS] = str(int(level + _ALMOST)) if level > 0 else "0"
        headers[_RESET_TOKENS] = duration((bucket.capacity - level) / bucket.rate)
    return headers


def duration(seconds: float) -> str:
    """A time as OpenAI writes it, rounded up: `20ms`, `1s`, `6m0s`, `1h0m0s`."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000 - _ALMOST)}ms" if seconds > 0 else "0ms"
    minutes, rest = divmod(math.ceil(seconds - _ALMOST), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def month_of(now: float) -> Month:
    """The calendar month of a Unix time."""
    return _month_of_day(int(now // _DAY))


@functools.lru_cache(maxsize=8)
def _month_of_day(day: int) -> Month:
    date = datetime.fromtimestamp(day * _DAY, UTC)
    number = date.year * 12 + date.month - 1
    return Month(number, _start_of(number), _start_of(number + 1))


def _start_of(number: int) -> int:
    return int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp())
