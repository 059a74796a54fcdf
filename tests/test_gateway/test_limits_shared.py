"""Limits that gateways share by a real Redis, and what holds while it is away."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_common.keys import Policy
from ams_gateway.limits import decide
from ams_gateway.limits.decide import Levels, Standing
from ams_gateway.limits.messages import Message, Reply, UserMessage
from ams_gateway.limits.metrics import LimitMetrics
from ams_gateway.limits.port import Admission
from ams_gateway.limits.script import SCRIPT
from ams_gateway.limits.shared import SharedLimiter
from ams_gateway.redis_link import RedisLink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_gateway.redis_server import RedisServer, redis_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


async def no_months(keys: Sequence[str]) -> dict[str, int]:
    return {}


@asynccontextmanager
async def gateways(server: RedisServer, count: int, months: object = no_months) -> AsyncIterator[list[SharedLimiter]]:
    """Limiters that have heard of each other."""
    async with AsyncExitStack() as stack:
        limiters = []
        for _ in range(count):
            link = RedisLink(server.url)
            await link.start()
            stack.push_async_callback(link.close)
            limits = SharedLimiter(link, months, LimitMetrics())  # type: ignore[arg-type]
            await limits.start()
            stack.push_async_callback(limits.close)
            limiters.append(limits)
        await asyncio.sleep(0.05)
        for limits in limiters:
            limits._wake()
        await asyncio.sleep(0.1)
        if server_is_up(limiters):
            assert [limits._metrics.gateways for limits in limiters] == [count] * count
        yield limiters


def server_is_up(limiters: list[SharedLimiter]) -> bool:
    return all(limits._link.up for limits in limiters)


async def until_up(limiters: list[SharedLimiter]) -> None:
    deadline = time.monotonic() + 10
    while not server_is_up(limiters):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)


async def ask(limits: SharedLimiter, policy: Policy, tokens: int = 1) -> Admission | ApiError:
    try:
        return await limits.admit(policy, tokens)
    except ApiError as error:
        return error


def team(**limits: int) -> Policy:
    return Policy(id="k-1", name="team-a", **limits)  # type: ignore[arg-type]


async def granted(limiters: list[SharedLimiter], policy: Policy, count: int) -> int:
    """How many of so many requests in a row, spread over all gateways, are let in."""
    let_in = 0
    for number in range(0, count, 5):
        limits = limiters[(number // 5) % len(limiters)]
        for admission in await asyncio.gather(*(ask(limits, policy) for _ in range(5))):
            if not isinstance(admission, ApiError):
                admission.settle(1)
                let_in += 1
    return let_in


async def test_two_gateways_keep_one_limit(server: RedisServer) -> None:
    async with gateways(server, 2) as limiters:
        assert 60 <= await granted(limiters, team(requests_per_minute=60), 600) <= 62
        refused = await ask(limiters[0], team(requests_per_minute=60))
        assert isinstance(refused, ApiError)
        await asyncio.sleep(int(refused.headers["Retry-After-Ms"]) / 1000)
        assert not isinstance(await ask(limiters[1], team(requests_per_minute=60)), ApiError)


async def test_requests_that_come_together_are_one_call(server: RedisServer) -> None:
    async with gateways(server, 1) as (limits,):
        before = limits._link.calls
        await asyncio.gather(*(ask(limits, team(requests_per_minute=1000)) for _ in range(500)))
        assert limits._link.calls - before <= 2


async def test_where_plenty_is_left_nobody_waits_for_redis(server: RedisServer) -> None:
    policy = team(requests_per_minute=60_000, tokens_per_minute=600_000, concurrent_requests=2000)
    async with gateways(server, 2) as (one, two):
        await one.admit(policy, 10)
        before = one._link.calls
        for _ in range(200):
            (await one.admit(policy, 10)).settle(5)
        assert one._link.calls - before <= 2
        await asyncio.sleep(0.3)
        answer = await two.admit(policy, 10)
        assert 59_790 <= int(answer.headers["X-RateLimit-Remaining-Requests"]) <= 60_000
        key = server.client().hgetall("{ams}:limits:user:k-1")
        assert key[b"c:" + one._id.encode()] == b"1"


async def test_who_goes_ahead_leaves_limits_as_they_are(server: RedisServer) -> None:
    async with gateways(server, 3) as limiters:
        started = time.monotonic()
        let_in = await granted(limiters, team(requests_per_minute=3000), 6000)
        seconds = time.monotonic() - started
        assert 3000 <= let_in <= 3000 + 50 * seconds + 30
        tokens = 0
        policy = Policy(id="k-2", name="team-b", tokens_per_minute=100_000, concurrent_requests=100)
        started = time.monotonic()
        for number in range(600):
            answer = await ask(limiters[number % 3], policy, 300)
            if not isinstance(answer, ApiError):
                answer.settle(300)
                tokens += 300
        assert tokens <= 100_000 * (1.02 + (time.monotonic() - started) / 60)


async def test_tokens_settled_here_are_there_for_others(server: RedisServer) -> None:
    async with gateways(server, 2) as (one, two):
        policy = team(tokens_per_minute=1000)
        admission = await one.admit(policy, 1000)
        assert isinstance(await ask(two, policy, 500), ApiError)
        admission.settle(100)
        await asyncio.sleep(0.2)
        answer = await two.admit(policy, 900)
        assert int(answer.headers["X-RateLimit-Remaining-Tokens"]) < 20


async def test_places_of_a_gateway_that_died_come_free(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_gateway.limits.shared.ALIVE_SECONDS", 1)
    policy = team(concurrent_requests=3)
    async with gateways(server, 2) as (one, two):
        places = [await one.admit(policy, 1) for _ in range(2)]
        await two.admit(policy, 1)
        refused = await ask(two, policy)
        assert isinstance(refused, ApiError)
        assert refused.details["limit"] == "concurrent"
        places[0].settle(1)
        await asyncio.sleep(0.2)
        await two.admit(policy, 1)
        assert isinstance(await ask(two, policy), ApiError)
        one._link.up = False  # it says nothing any more
        await asyncio.sleep(1.2)
        await two.admit(policy, 1)
        one._link.up = True


async def test_a_gateway_that_leaves_frees_its_places_at_once(server: RedisServer) -> None:
    policy = team(concurrent_requests=1)
    async with gateways(server, 1) as (two,):
        async with gateways_of(server) as one:
            await one.admit(policy, 1)
            assert isinstance(await ask(two, policy), ApiError)
        await two.admit(policy, 1)
        await asyncio.sleep(0.1)
        assert two._metrics.gateways == 1


@asynccontextmanager
async def gateways_of(server: RedisServer) -> AsyncIterator[SharedLimiter]:
    link = RedisLink(server.url)
    await link.start()
    limits = SharedLimiter(link, no_months, LimitMetrics())
    await limits.start()
    yield limits
    await limits.close()
    await link.close()


async def test_the_months_tokens(server: RedisServer) -> None:
    async def months(keys: Sequence[str]) -> dict[str, int]:
        return {"k-1": 900}

    policy = team(monthly_tokens=1000)
    async with gateways(server, 2, months) as (one, two):
        (await one.admit(policy, 1)).settle(50)
        await asyncio.sleep(0.2)
        (await two.admit(policy, 1)).settle(50)
        await asyncio.sleep(0.2)
        for limits in (one, two):
            refused = await ask(limits, policy)
            assert isinstance(refused, ApiError)
            assert refused.code == "token_limit"
            assert refused.details["used_tokens"] == 1000
        server.client().flushall()  # what gateways know is more than nothing
        assert isinstance(await ask(one, policy), ApiError)
        assert isinstance(await ask(two, policy), ApiError)


async def test_a_redis_that_forgets_gives_nothing_twice(server: RedisServer) -> None:
    async with gateways(server, 2) as limiters:
        policy = team(requests_per_minute=60, concurrent_requests=1000)
        assert await granted(limiters, policy, 100) >= 60
        server.client().flushall()
        assert await granted(limiters, policy, 100) <= 5
        server.client().script_flush()
        assert await granted(limiters, policy, 100) <= 5


LAGS = [0.0]


async def measure_lag() -> None:
    """How long this process had nothing to say, as the machine did something else: no fault of Redis or limits."""
    LAGS[:] = [0.0]
    while True:
        before = time.monotonic()
        await asyncio.sleep(0.005)
        LAGS.append(time.monotonic() - before)


async def until_nobody_decides_alone(limiters: list[SharedLimiter]) -> None:
    deadline = time.monotonic() + 20
    while True:
        before = [limits._metrics.alone for limits in limiters]
        await asyncio.sleep(0.5)
        if before == [limits._metrics.alone for limits in limiters]:
            return
        assert time.monotonic() < deadline


@pytest.mark.parametrize("how", ["kill", "pause", "replica", "full"])
async def test_redis_away_under_load(server: RedisServer, how: str) -> None:
    """No error, no stall, limits within twice of what they are, and back by itself."""
    policy = team(requests_per_minute=600, tokens_per_minute=100_000, concurrent_requests=100)
    slowest = 0.0
    let_in = 0
    stop = False

    async def client(limits: SharedLimiter) -> None:
        nonlocal slowest, let_in
        while not stop:
            started = time.monotonic()
            answer = await ask(limits, policy, 10)
            slowest = max(slowest, time.monotonic() - started)
            if not isinstance(answer, ApiError):
                let_in += 1
                await asyncio.sleep(0.002)
                answer.settle(10)
            await asyncio.sleep(0.01)

    async with gateways(server, 2) as limiters:
        clients = [asyncio.create_task(client(limits)) for limits in limiters for _ in range(10)]
        lag = asyncio.create_task(measure_lag())
        await asyncio.sleep(0.5)
        {
            "kill": server.kill,
            "pause": server.pause,
            "replica": lambda: server.client().replicaof("127.0.0.1", "1"),
            "full": lambda: server.client().config_set("maxmemory", "1"),
        }[how]()
        away_since = time.monotonic()
        await asyncio.sleep(2)
        assert not any(limits._link.up for limits in limiters)
        assert all(limits._metrics.alone > 0 for limits in limiters)
        assert let_in <= 2 * (600 + 10 * (time.monotonic() - away_since + 1))
        {
            "kill": server.start,
            "pause": server.resume,
            "replica": lambda: server.client().replicaof("NO", "ONE"),
            "full": lambda: server.client().config_set("maxmemory", "0"),
        }[how]()
        await until_up(limiters)
        before, started = let_in, time.monotonic()
        await asyncio.sleep(1.5)
        assert let_in - before <= 10 * (time.monotonic() - started) + 15, "what was used alone was not told"
        await until_nobody_decides_alone(limiters)
        stop = True
        await asyncio.gather(*clients)
        await asyncio.sleep(0.2)
        assert all(account.running == 0 for limits in limiters for account in limits._accounts.values())
        lag.cancel()
        assert slowest < 0.15 + max(LAGS)
        key = server.client().hgetall("{ams}:limits:user:k-1")
        assert not [field for field in key if field.startswith(b"c:")]


async def test_alone_each_gateway_has_its_part(server: RedisServer) -> None:
    async with gateways(server, 2) as limiters:
        policy = team(requests_per_minute=60, concurrent_requests=10)
        assert await granted(limiters, policy, 20) == 20
        server.kill()
        await asyncio.sleep(0.1)
        assert 38 <= await granted(limiters, policy, 200) <= 43
        admissions = [await limiters[0].admit(team(concurrent_requests=10), 1) for _ in range(5)]
        assert isinstance(await ask(limiters[0], team(concurrent_requests=10)), ApiError)
        admissions[0].settle(1)
        await limiters[0].admit(team(concurrent_requests=10), 1)


async def test_who_leaves_before_the_answer_takes_nothing(server: RedisServer) -> None:
    async with gateways(server, 1) as (limits,):
        policy = team(requests_per_minute=60, tokens_per_minute=600, concurrent_requests=10)
        for pause in (0, 0, 0.0005, 0.001, 0.002):
            asking = [asyncio.create_task(limits.admit(policy, 60)) for _ in range(10)]
            await asyncio.sleep(pause)
            for task in asking:
                task.cancel()
            for admission in await asyncio.gather(*asking, return_exceptions=True):
                if not isinstance(admission, BaseException):
                    admission.settle(None)
        await asyncio.sleep(0.2)
        account = limits._accounts["k-1"]
        assert account.running == 0
        admission = await limits.admit(policy, 600)
        assert admission.headers["X-RateLimit-Remaining-Requests"] == "59"


async def test_a_message_that_is_sent_again_counts_once(server: RedisServer) -> None:
    async with gateways(server, 1) as (limits,):
        policy = team(monthly_tokens=1000)
        (await limits.admit(policy, 1)).settle(100)
        run = limits._link.run

        async def lose_the_answer(*args: object, **options: object) -> object:
            await run(*args, **options)  # type: ignore[arg-type]
            limits._link._lose("the answer was lost", "lost")
            limits._link.run = run  # type: ignore[method-assign]
            return await run(*args, **options)  # type: ignore[arg-type]

        limits._link.run = lose_the_answer  # type: ignore[assignment]
        await asyncio.sleep(0.2)
        (await limits.admit(policy, 1)).settle(7)
        await until_up([limits])
        await asyncio.sleep(0.2)
        assert server.client().hget("{ams}:limits:user:k-1", "u") == b"107"


_STEP = st.tuples(
    st.floats(0, 100).map(lambda seconds: round(seconds, 3)),
    st.lists(st.integers(0, 200), max_size=4),
    st.integers(-300, 300),
    st.integers(0, 1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 30), st.integers(0, 300), st.integers(0, 4), st.integers(0, 500), st.lists(_STEP, max_size=12))
def test_redis_decides_as_decide_does(
    server: RedisServer, requests: int, tokens: int, concurrent: int, monthly: int, steps: list[object]
) -> None:
    """The script and the rules in Python are the same, step by step, with one clock."""
    client = server.client()
    client.flushall()
    policy = team(
        **{
            name: value
            for name, value in [
                ("requests_per_minute", requests), ("tokens_per_minute", tokens),
                ("concurrent_requests", concurrent), ("monthly_tokens", monthly),
            ]
            if value
        }
    )  # fmt: skip
    bounds = decide.bounds_of(policy)
    now = 1_790_000_000.0
    levels = decide.full(bounds, now)
    running = month_tokens = 0
    for number, (seconds, asks, given_tokens, ended) in enumerate(steps, 1):  # type: ignore[misc]
        now = round(now + seconds, 3)
        running = max(0, running - ended)
        user = UserMessage(
            requests, tokens, concurrent, monthly, levels.requests, levels.tokens, 0, 0, float(ended),
            float(given_tokens), abs(given_tokens), running, asks,
        )  # fmt: skip
        answer = client.eval(
            SCRIPT.text, 3, "{ams}:g", "{ams}:m", "{ams}:u",
            msgspec.msgpack.encode(Message("me", number, 15, False, [user])), f"{now:.3f}",
        )  # fmt: skip
        reply = msgspec.msgpack.decode(answer, type=Reply)  # type: ignore[arg-type]
        levels = decide.added(decide.refilled(levels, bounds, now), bounds, ended, given_tokens)
        month_tokens += abs(given_tokens)
        expected = []
        for asked in asks:
            fits = decide.fits(Standing(levels, running, month_tokens), bounds, asked)
            expected.append(int(fits))
            if fits:
                levels = decide.taken(levels, bounds, asked)
                running += 1
        assert reply.users[0].granted == expected
        assert reply.month == decide.month_of(now).number
        if requests:
            assert reply.users[0].requests == pytest.approx(levels.requests, abs=1e-3)
        if tokens:
            assert reply.users[0].tokens == pytest.approx(levels.tokens, abs=1e-3)
        levels = Levels(reply.users[0].requests, reply.users[0].tokens, now)


def test_the_scripts_calendar(server: RedisServer) -> None:
    message = msgspec.msgpack.encode(Message("me", 1, 15, False, []))
    for day in range(0, 25_000, 97):
        second = day * 86400 + 5
        answer = server.client().eval(SCRIPT.text, 2, "{ams}:g", "{ams}:m", message, str(second))
        month = msgspec.msgpack.decode(answer, type=Reply).month  # type: ignore[arg-type]
        assert month == decide.month_of(second).number
