"""What fits into limits, and what is told: decisions, and the limiter of one gateway."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from ams_common.errors import ApiError
from ams_common.keys import Policy
from ams_gateway.limits import decide
from ams_gateway.limits.decide import Standing
from ams_gateway.limits.memory import MemoryLimiter
from ams_gateway.limits.metrics import LimitMetrics
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = datetime(2026, 11, 26, 6, 0, tzinfo=UTC).timestamp()


class Clock:
    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


async def no_months(keys: Sequence[str]) -> dict[str, int]:
    return {}


def policy(**limits: int) -> Policy:
    return Policy(id="k-1", name="team-a", **limits)  # type: ignore[arg-type]


def limiter(clock: Clock, months: object = no_months, wall: Clock | None = None) -> MemoryLimiter:
    return MemoryLimiter(months, LimitMetrics(), clock=clock, wall=wall or Clock(NOW))  # type: ignore[arg-type]


async def test_requests_a_minute() -> None:
    clock = Clock()
    limits = limiter(clock)
    team = policy(requests_per_minute=60)
    admissions = [await limits.admit(team, 10) for _ in range(60)]
    assert admissions[0].headers == {
        "X-RateLimit-Limit-Requests": "60",
        "X-RateLimit-Remaining-Requests": "59",
        "X-RateLimit-Reset-Requests": "1s",
    }
    clock.now += 0.25
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 10)
    error = refused.value
    assert (error.code, error.status) == ("rate_limited", 429)
    assert error.message == "team-a may send 60 requests a minute. Try again in 750ms."
    assert error.headers == {
        "X-RateLimit-Limit-Requests": "60",
        "X-RateLimit-Remaining-Requests": "0",
        "X-RateLimit-Reset-Requests": "1m0s",
        "Retry-After-Ms": "750",
        "Retry-After": "1",
    }
    assert error.details == {"limit": "requests", "limited": ["requests"], "requests_per_minute": 60}
    clock.now += 0.75
    await limits.admit(team, 10)  # exactly when it was told
    with pytest.raises(ApiError):
        await limits.admit(team, 10)


async def test_tokens_are_reserved_and_settled() -> None:
    clock = Clock()
    limits = limiter(clock)
    team = policy(tokens_per_minute=600)
    first = await limits.admit(team, 400)
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 400)
    assert refused.value.headers["Retry-After"] == "20"
    assert "600 tokens a minute, and this request asks for 400. Try again in 20s." in refused.value.message
    first.settle(100)
    first.settle(100)  # once is enough
    second = await limits.admit(team, 400)
    assert second.headers["X-RateLimit-Remaining-Tokens"] == "100"
    second.settle(1200)  # it used more than it asked for: a debt of a minute and ten seconds
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 1)
    assert refused.value.headers["Retry-After"] == "71"
    assert refused.value.headers["X-RateLimit-Remaining-Tokens"] == "0"
    assert refused.value.headers["X-RateLimit-Reset-Tokens"] == "2m10s"


async def test_a_request_that_asks_for_more_than_a_minute_waits_for_a_full_one() -> None:
    clock = Clock()
    limits = limiter(clock)
    team = policy(tokens_per_minute=600)
    (await limits.admit(team, 5000)).settle(300)
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 5000)
    assert refused.value.headers["Retry-After"] == "30"
    clock.now += 30
    await limits.admit(team, 5000)


async def test_what_never_reached_a_pod_counts_for_nothing() -> None:
    limits = limiter(Clock())
    team = policy(requests_per_minute=1, tokens_per_minute=10, concurrent_requests=1)
    for _ in range(5):
        (await limits.admit(team, 10)).settle(None)


async def test_concurrent_requests() -> None:
    limits = limiter(Clock())
    team = policy(concurrent_requests=2)
    first = await limits.admit(team, 1)
    await limits.admit(team, 1)
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 1)
    assert refused.value.details == {"limit": "concurrent", "limited": ["concurrent"], "concurrent_requests": 2}
    assert refused.value.headers == {"Retry-After": "1", "Retry-After-Ms": "1000"}
    first.settle(5)
    await limits.admit(team, 1)


async def test_tokens_of_the_month() -> None:
    async def months(keys: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(keys, 900)

    wall = Clock(NOW)
    limits = limiter(Clock(), months, wall)
    team = policy(monthly_tokens=1000)
    (await limits.admit(team, 500)).settle(150)
    with pytest.raises(ApiError) as refused:
        await limits.admit(team, 1)
    error = refused.value
    assert error.code == "token_limit"
    assert error.details == {
        "limit": "month", "limited": ["month"], "monthly_tokens": 1000, "used_tokens": 1050,
        "resets_at": "2026-12-01T00:00:00Z",
    }  # fmt: skip
    assert error.headers == {"Retry-After": str(4 * 86400 + 18 * 3600), "X-Should-Retry": "false"}
    assert limits.used_months() == {"team-a": 1.05}
    wall.now += 5 * 86400
    await limits.admit(team, 1)


async def test_a_ledger_that_fails_lets_in() -> None:
    async def months(keys: Sequence[str]) -> dict[str, int]:
        raise OSError("no disk")

    await limiter(Clock(), months).admit(policy(monthly_tokens=1000), 1)


async def test_a_policy_that_changes_holds_at_once() -> None:
    clock = Clock()
    limits = limiter(clock)
    for _ in range(10):
        await limits.admit(policy(requests_per_minute=60), 1)
    admission = await limits.admit(policy(requests_per_minute=5), 1)
    assert admission.headers["X-RateLimit-Remaining-Requests"] == "4"
    await limits.admit(policy(requests_per_minute=600, concurrent_requests=12), 1)
    with pytest.raises(ApiError):
        await limits.admit(policy(requests_per_minute=600, concurrent_requests=12), 1)
    await limits.admit(policy(), 1)


async def test_users_who_are_gone_are_forgotten() -> None:
    clock = Clock()
    limits = limiter(clock)
    for number in range(1000):
        (await limits.admit(Policy(id=str(number), name="n", requests_per_minute=60), 1)).settle(1)
    running = await limits.admit(Policy(id="running", name="n", concurrent_requests=1), 1)
    clock.now += 700
    await limits.admit(policy(requests_per_minute=1), 1)
    assert set(limits._accounts) == {"running", "k-1"}
    running.settle(1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0001, "1ms"), (0.02, "20ms"), (1, "1s"), (1.2, "2s"), (59.99, "1m0s"), (360, "6m0s"),
     (3723, "1h2m3s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert decide.duration(seconds) == text


@pytest.mark.parametrize(
    ("when", "start", "end"),
    [("2026-11-30T23:59:59", "2026-11-01", "2026-12-01"), ("2026-12-31T12:00:00", "2026-12-01", "2027-01-01"),
     ("2028-02-29T00:00:00", "2028-02-01", "2028-03-01")],
)  # fmt: skip
def test_months(when: str, start: str, end: str) -> None:
    month = decide.month_of(datetime.fromisoformat(when + "+00:00").timestamp())
    assert month.start == datetime.fromisoformat(start + "T00:00:00+00:00").timestamp()
    assert month.end == datetime.fromisoformat(end + "T00:00:00+00:00").timestamp()


_LIMIT = st.one_of(st.none(), st.integers(1, 1000))
_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "settle", "drop", "wait"]), st.integers(0, 3000), st.integers(0, 30), st.floats(0, 90)
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(_LIMIT, _LIMIT, _LIMIT, _STEPS)
async def test_no_order_of_requests_leaks(
    requests: int | None, tokens: int | None, concurrent: int | None, steps: list[tuple[str, int, int, float]]
) -> None:
    """Whatever happens in which order, everything is whole again when all have ended and the debts are paid."""
    clock = Clock()
    limits = limiter(clock)
    team = policy(
        **{
            name: value
            for name, value in [
                ("requests_per_minute", requests), ("tokens_per_minute", tokens), ("concurrent_requests", concurrent),
            ]
            if value is not None
        }
    )  # fmt: skip
    running = []
    used = 0
    started = clock.now
    for what, amount, which, seconds in steps:
        if what == "wait":
            clock.now += seconds
        elif what == "ask":
            try:
                running.append(await limits.admit(team, amount))
            except ApiError as error:
                if error.details["limit"] in ("requests", "tokens") and "concurrent" not in error.details["limited"]:
                    clock.now += int(error.headers["Retry-After-Ms"]) / 1000
                    running.append(await limits.admit(team, amount))  # what is told is true
        elif running:
            tokens_used = amount if what == "settle" else None
            used += tokens_used or 0
            running.pop(which % len(running)).settle(tokens_used)
        if concurrent is not None:
            assert len(running) <= concurrent
    for admission in running:
        admission.settle(0)
    if not team.limited or not limits._accounts:
        return
    account = limits._accounts[team.id]
    assert account.running == 0
    if tokens is not None:
        missing = decide.full(account.bounds, 0).tokens - account.levels.tokens
        assert missing <= used + 1e-6, "more is missing than was used"
        assert account.levels.tokens <= tokens
        flowed = (clock.now - started) * tokens / 60
        assert used <= tokens + flowed - account.levels.tokens + 1e-3, "more was used than there was"
    clock.now += 60 * (used + 1) + 60
    account.levels = decide.refilled(account.levels, account.bounds, clock.now)
    assert account.levels == decide.full(account.bounds, clock.now)._replace(
        requests=account.levels.requests if requests is None else float(requests),
        tokens=account.levels.tokens if tokens is None else float(tokens),
    )


def test_the_longest_shortage_is_told() -> None:
    bounds = decide.bounds_of(policy(requests_per_minute=60, tokens_per_minute=600, concurrent_requests=1))
    standing = Standing(decide.Levels(0.0, -600.0, 0.0), 1, 0)
    found = decide.shortages(standing, bounds, 600, 1e6)
    assert (found[0].limit, found[0].seconds) == ("tokens", 120)
    assert {each.limit for each in found} == {"tokens", "requests", "concurrent"}


async def test_many_at_once_wait_for_one_seed() -> None:
    asked = []

    async def months(keys: Sequence[str]) -> dict[str, int]:
        asked.append(keys)
        await asyncio.sleep(0.01)
        return {"k-1": 1000}

    limits = limiter(Clock(), months)
    answers = await asyncio.gather(
        *(limits.admit(policy(monthly_tokens=1000), 1) for _ in range(10)), return_exceptions=True
    )
    assert all(isinstance(answer, ApiError) for answer in answers)
    assert len(asked) == 1
