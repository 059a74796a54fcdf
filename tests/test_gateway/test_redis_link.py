"""The connection to Redis: fast where it is there, and a state where it isn't."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from ams_common.options import OptionError
from ams_gateway.redis_link import InvalidRedisUrl, RedisAway, RedisLink, RedisRefused, Script, open_link
from test_gateway.redis_server import RedisServer, redis_server

_ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as started:
        yield started


@asynccontextmanager
async def linked(server: RedisServer, password: str = "") -> AsyncIterator[RedisLink]:
    link = RedisLink(server.url, password)
    await link.start()
    try:
        yield link
    finally:
        await link.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_scripts_and_commands(server: RedisServer) -> None:
    async with linked(server) as link:
        assert await link.run(_ADD, ["n"], 2) == 2
        assert await link.run(_ADD, ["n"], 3) == 5
        assert await link.call("GET", "n") == b"5"
        server.client().script_flush()
        assert await link.run(_ADD, ["n"], 1) == 6
        answers = await asyncio.gather(*(link.run(_ADD, ["n"], 1) for _ in range(500)))
        assert answers == list(range(7, 507))


async def test_an_error_of_one_call_is_no_fault_of_the_link(server: RedisServer) -> None:
    async with linked(server) as link:
        with pytest.raises(RedisRefused, match="not an integer"):
            await link.call("INCRBY", "n", "x")
        assert link.up
        assert await link.call("PING") == b"PONG"


async def test_a_killed_server_is_away_at_once_and_there_again(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    states: list[bool] = []
    async with linked(server) as link:
        link.listen(states.append)
        server.kill()
        await until(lambda: not link.up)
        before = time.monotonic()
        with pytest.raises(RedisAway):
            await link.call("PING")
        assert time.monotonic() - before < 0.05
        await asyncio.sleep(1)
        server.start()
        await until(lambda: link.up)
        assert await link.run(_ADD, ["n"], 1) == 1
    assert states == [False, True]
    lines = [record.getMessage() for record in caplog.records if record.name == "ams_gateway"]
    assert [line.partition(" is ")[2].partition(":")[0] for line in lines] == ["there", "away", "there"]


async def test_a_server_that_stalls_is_away_within_100_ms(server: RedisServer) -> None:
    async with linked(server) as link:
        server.pause()
        started = time.monotonic()
        calls = await asyncio.gather(*(link.call("PING") for _ in range(50)), return_exceptions=True)
        assert time.monotonic() - started < 0.15
        assert all(isinstance(answer, RedisAway) for answer in calls)
        assert "no answer within 50 ms" in link.reason
        await asyncio.sleep(1.5)
        assert not link.up
        server.resume()
        await until(lambda: link.up)
        assert await link.call("PING") == b"PONG"
        assert link.failures["slow"] == 1


async def test_no_server_at_first(tmp_path: Path, server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    server.kill()
    async with linked(server) as link:
        assert not link.up
        server.start()
        await until(lambda: link.up)
    assert len([record for record in caplog.records if " is away: " in record.getMessage()]) == 1


async def test_passwords_are_never_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server(tmp_path) as server:
        server.client().config_set("requirepass", "right-secret")
        async with linked(server, "wrong-secret") as link:
            assert not link.up
            assert "invalid username-password pair" in link.reason
        async with linked(server) as link:
            assert "Authentication required" in link.reason
        async with linked(server, "right-secret") as link:
            assert link.up
    assert "secret" not in caplog.text
    with pytest.raises(OptionError) as refused:
        open_link("http://:secret@host")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["http://host", "redis://", "unix://", "host:6379", "redis://host:port", "redis://h?x=1"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(InvalidRedisUrl):
        RedisLink(url)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), "maxmemory"),
        (("REPLICAOF", "127.0.0.1", "1"), "read only replica"),
        (("CONFIG", "SET", "min-replicas-to-write", "1"), "Not enough good replicas"),
    ],
)
async def test_a_server_that_takes_nothing_is_away(server: RedisServer, command: tuple[str, ...], reason: str) -> None:
    async with linked(server) as link:
        server.client().execute_command(*command)
        with pytest.raises(RedisAway, match=reason):
            await link.run(_ADD, ["n"], 1)
        assert not link.up
        await asyncio.sleep(1)
        assert not link.up  # whose PING would be answered
        server.client().execute_command(*_UNDO[command[-2]])
        await until(lambda: link.up)


_UNDO = {
    "maxmemory": ("CONFIG", "SET", "maxmemory", "0"),
    "127.0.0.1": ("REPLICAOF", "NO", "ONE"),
    "min-replicas-to-write": ("CONFIG", "SET", "min-replicas-to-write", "0"),
}


async def test_who_leaves_disturbs_no_answer(server: RedisServer) -> None:
    async with linked(server) as link:
        await link.run(_ADD, ["n"], 0)
        for size in (1, 100_000, 1_000_000):
            calls = [asyncio.create_task(link.call("ECHO", f"{n}," + "x" * size, seconds=1.0)) for n in range(20)]
            await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::2])
            assert [int(answer.partition(b",")[0]) for answer in answers[1::2]] == list(range(1, 20, 2))
            assert link.up
