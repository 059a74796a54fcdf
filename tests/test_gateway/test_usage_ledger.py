"""The ledger: what was told is there, once, whatever ends when, and whatever lies where its file should be."""

import asyncio
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from ams_common.request_usage import RequestUsage
from ams_gateway.redis_link import RedisLink
from ams_gateway.usage.collecting import ReadableLedger
from ams_gateway.usage.database import open_database
from ams_gateway.usage.kept import KeptLedger
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.outbox import Outbox
from ams_gateway.usage.port import Entry, Outcome
from ams_gateway.usage.shared import SharedLedger
from ams_gateway.usage.store import StoreUnavailable
from ams_gateway.usage.sums import Group, Sums, add, merged
from test_gateway.redis_server import RedisServer, redis_server

FOREVER = (0, 2**40)


def entry(key: str = "k-1", tokens: int = 10, **options: Any) -> Entry:
    usage = RequestUsage(prompt_tokens=tokens, completion_tokens=tokens, cached_tokens=1, media=1, compute_seconds=0.25)
    values = {"key_name": f"name-{key}", "model": "m", "outcome": Outcome.ANSWERED, "usage": usage} | options
    return Entry(key_id=key, **values)


def kept(path: Path | None, **options: Any) -> KeptLedger:
    return KeptLedger(path, UsageMetrics(), **({"days": 400} | options))


async def rows_of(ledger: ReadableLedger, start: int, end: int) -> list[tuple[Group, Sums]]:
    rows: dict[Group, Sums] = {}

    def take(some: Iterable[tuple[Group, Sums]]) -> None:
        for group, sums in some:
            add(rows, group, sums)

    await ledger.each(start, end, take)
    return list(rows.items())


def total(rows: list[tuple[Group, Sums]]) -> Sums:
    result = Sums()
    for _, sums in rows:
        result = result.plus(sums)
    return result


@pytest.mark.parametrize("in_file", [True, False])
async def test_entries_are_added_up(tmp_path: Path, in_file: bool) -> None:
    ledger = kept(tmp_path / "new" / "usage.db" if in_file else None, wall=lambda: 7200.0 + 60)
    await ledger.start()
    for _ in range(3):
        ledger.add(entry())
    ledger.add(entry(late=True, outcome=Outcome.CUT))
    ledger.add(entry(key="k-2", model="other"))
    assert dict(await rows_of(ledger, *FOREVER)) == {
        Group(7200, "k-1", "name-k-1", "m", "answered"): Sums(3, 30, 3, 30, 3, 750_000),
        Group(7200, "k-1", "name-k-1", "m", "cut"): Sums(0, 10, 1, 10, 1, 250_000),
        Group(7200, "k-2", "name-k-2", "other", "answered"): Sums(1, 10, 1, 10, 1, 250_000),
    }
    assert await rows_of(ledger, 0, 7200) == []
    assert await ledger.month_tokens(["k-1", "k-2", "k-3"]) == {"k-1": 80, "k-2": 20}
    await ledger.close()
    if in_file:
        assert (tmp_path / "new" / "usage.db").stat().st_mode & 0o777 == 0o600
        again = kept(tmp_path / "new" / "usage.db", wall=lambda: 7200.0)
        assert total(await rows_of(again, *FOREVER)).requests == 4
        await again.close()


async def test_months_and_days_end(tmp_path: Path) -> None:
    now = datetime(2026, 11, 30, 23, 59, tzinfo=UTC).timestamp()
    ledger = kept(tmp_path / "usage.db", wall=lambda: now, days=30)
    ledger.add(entry())
    await ledger.flush()
    now += 60
    assert await ledger.month_tokens(["k-1"]) == {}
    now += 29 * 86400
    await ledger.start()
    await asyncio.sleep(0.1)
    assert total(await rows_of(ledger, *FOREVER)).requests == 1
    await ledger.close()
    now += 2 * 86400
    ledger = kept(tmp_path / "usage.db", wall=lambda: now, days=30)
    await ledger.start()
    await asyncio.sleep(0.1)
    assert await rows_of(ledger, *FOREVER) == []
    await ledger.close()


@pytest.mark.parametrize("in_redis", [True, False])
async def test_what_pods_and_tokens_spell_can_be_kept(server: RedisServer, in_redis: bool) -> None:
    """Half characters in names, and numbers beyond all."""
    most = RequestUsage(prompt_tokens=10**15, completion_tokens=10**15, compute_seconds=1e9)
    ledger: ReadableLedger = kept(None)
    gateway = Gateway(server)
    if in_redis:
        ledger = await gateway.__aenter__()
    for _ in range(3):
        for _ in range(5000):
            ledger.add(entry(key="half \ud83d", usage=most))
        ((group, sums),) = await rows_of(ledger, *FOREVER_FEW)
    assert group.key_name == "name-half ?"
    assert sums.requests == 15_000
    assert sums.prompt_tokens == 2**53 - 1
    assert sums.compute_microseconds == 2**53 - 1
    assert (await ledger.month_tokens(["half ?"]))["half ?"] >= 2**53 - 1
    await (gateway.__aexit__() if in_redis else ledger.close())


_WRITER = """
import asyncio, sys, time
from pathlib import Path
from ams_common.request_usage import RequestUsage
from ams_gateway.usage.database import open_database
from ams_gateway.usage.collecting import ReadableLedger
from ams_gateway.usage.kept import KeptLedger
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.port import Entry, Outcome

async def main():
    ledger = KeptLedger(Path(sys.argv[1]), UsageMetrics(), days=400)
    await ledger.start()
    number = 0
    while True:
        number += 1
        ledger.add(Entry(key_id="k", key_name="k", model="m", outcome=Outcome.ANSWERED,
                         usage=RequestUsage(prompt_tokens=1)))
        print(number, time.monotonic(), flush=True)
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


def test_a_kill_loses_less_than_a_second(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    for round_ in range(2):
        with subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines: list[str] = []
            begun = 0.0
            for line in writer.stdout:
                begun = begun or time.monotonic()
                lines.append(line)
                if time.monotonic() - begun > 1.8 + round_ / 5:
                    writer.send_signal(signal.SIGKILL)
                    break
            killed = time.monotonic()
            lines += writer.stdout.readlines()
        counted = {int(number): float(when) for number, when in map(str.split, lines) if when}
        before = sum(1 for when in counted.values() if when <= killed - 1)
        (requests,) = sqlite3.connect(path).execute("SELECT sum(requests) FROM usage").fetchone()
        assert before <= requests - round_ * _FIRST.get("requests", 0) <= len(counted)
        _FIRST["requests"] = requests
        assert before > 100


_FIRST: dict[str, int] = {}


@pytest.mark.parametrize(
    "content", [b"not a database at all, but longer than a header" * 100, b"\0" * 5000, "newer", "other"]
)
async def test_files_that_are_no_ledger_are_set_aside(
    tmp_path: Path, content: bytes | str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.db"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE usage (something TEXT)")
            connection.execute(f"PRAGMA user_version = {9 if content == 'newer' else 1}")
        connection.close()
    before = path.read_bytes()
    ledger = kept(path)
    ledger.add(entry())
    assert total(await rows_of(ledger, *FOREVER)).requests == 1
    await ledger.close()
    (aside,) = beside(path)
    assert aside.read_bytes() == before or content == "other"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert aside.name in messages[0]
    caplog.clear()


def beside(path: Path) -> list[Path]:
    """Files that were set aside."""
    return list(path.parent.glob(f"{path.name}.aside-*[0-9]"))


def scramble(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


async def test_a_file_that_breaks_meanwhile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "usage.db"
    ledger = kept(path)
    for number in range(300):
        ledger.add(entry(key=f"k-{number}"))
    await ledger.flush()
    for file in (path, Path(f"{path}-wal")):
        scramble(file)
    ledger._store._database.close()
    ledger.add(entry())
    await ledger.flush()
    ledger.add(entry())
    await ledger.flush()
    assert total(await rows_of(ledger, *FOREVER)).requests == 2
    assert beside(path)
    await ledger.close()
    caplog.clear()


async def test_a_full_disk_keeps_it_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("ams_gateway.usage.collecting._RETRY_SECONDS", 0.1)
    ledger = kept(tmp_path / "usage.db")
    ledger.add(entry())
    await ledger.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for number in range(200):
            ledger.add(entry(key=f"k-{number}"))
        await ledger.flush()
        assert ledger._metrics.waiting == 200
        await asyncio.sleep(0.5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    await asyncio.sleep(0.5)
    assert sqlite3.connect(tmp_path / "usage.db").execute("SELECT sum(requests) FROM usage").fetchone() == (201,)
    assert total(await rows_of(ledger, *FOREVER)).requests == 201
    await ledger.close()
    messages = [record.getMessage() for record in caplog.records]
    assert len([text for text in messages if "is kept in memory" in text]) == 1
    assert len([text for text in messages if "again" in text]) == 1
    caplog.clear()


async def test_a_folder_that_can_not_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    ledger = kept(tmp_path / "file" / "usage.db")
    ledger.add(entry())
    await ledger.flush()
    with pytest.raises(StoreUnavailable):
        await rows_of(ledger, *FOREVER)
    await ledger.close()
    caplog.clear()


async def test_two_processes_may_share_a_file(tmp_path: Path) -> None:
    ledgers = [kept(tmp_path / "usage.db") for _ in range(2)]
    for _ in range(20):
        for ledger in ledgers:
            ledger.add(entry())
        await asyncio.gather(*(ledger.flush() for ledger in ledgers))
    assert total(await rows_of(ledgers[0], *FOREVER)).requests == 40
    for ledger in ledgers:
        await ledger.close()


def test_processes_may_create_a_file_at_once(tmp_path: Path) -> None:
    """SQLite itself refuses one in five of such pairs."""

    def opened(path: Path, barrier: threading.Barrier) -> None:
        barrier.wait()
        database = open_database(path)
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute("COMMIT")
        finally:
            database.close()

    barrier = threading.Barrier(2)
    with ThreadPoolExecutor(2) as pool:
        for number in range(100):
            path = tmp_path / f"usage-{number}.db"
            for future in [pool.submit(opened, path, barrier) for _ in range(2)]:
                future.result()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, "--appendonly", "no") as started:
        yield started


class Gateway:
    """A link and a ledger over it."""

    def __init__(self, server: RedisServer, path: Path | None = None) -> None:
        self.link = RedisLink(server.url)
        self.ledger = SharedLedger(self.link, path, UsageMetrics(), days=400)

    async def __aenter__(self) -> SharedLedger:
        await self.link.start()
        await self.ledger.start()
        return self.ledger

    async def __aexit__(self, *_: object) -> None:
        await self.ledger.close()
        await self.link.close()


async def test_gateways_add_up_in_redis(server: RedisServer, tmp_path: Path) -> None:
    async with Gateway(server) as one, Gateway(server, tmp_path / "usage.db") as two:
        for number in range(1200):  # more than a batch
            one.add(entry(key=f"k-{number}"))
            two.add(entry(key=f"k-{number}"))
        two.add(entry(late=True))
        rows = await rows_of(one, *FOREVER_FEW)
        assert total(rows).requests >= 1200
        rows = await rows_of(two, *FOREVER_FEW)
        assert total(rows) == Sums(2400, 24010, 2401, 24010, 2401, 2401 * 250_000)
        assert await one.month_tokens(["k-1", "k-2", "k-none"]) == {"k-1": 60, "k-2": 40, "k-none": 0}
        assert await rows_of(two, 0, 86400) == []


async def test_old_days_are_forgotten_in_redis(server: RedisServer) -> None:
    now = time.time()
    link = RedisLink(server.url)
    await link.start()
    old = SharedLedger(link, None, UsageMetrics(), days=60, wall=lambda: now - 61 * 86400)
    await old.start()
    old.add(entry())
    await old.close()
    client = server.client()
    (day,) = client.keys("{ams}:usage:day:*")
    assert client.ttl(day) == -1
    client.hset("{ams}:usage:day:" + f"{datetime.fromtimestamp(now - 59 * 86400, UTC):%Y-%m-%d}", "x", "x")
    ledger = SharedLedger(link, None, UsageMetrics(), days=60, wall=lambda: now)
    await ledger.start()
    await asyncio.sleep(0.3)
    assert day not in client.keys("{ams}:usage:day:*")
    assert len(client.keys("{ams}:usage:day:*")) == 1
    assert await rows_of(ledger, int(now) - 100 * 86400, int(now)) == []  # and what can't be read is left out
    await ledger.close()
    await link.close()


now_hour = int(time.time()) // 3600 * 3600
FOREVER_FEW = (now_hour - 86400, now_hour + 86400)


async def test_usage_reaches_redis_within_a_second(server: RedisServer) -> None:
    async with Gateway(server) as ledger:
        ledger.add(entry())
        await asyncio.sleep(0.9)
        assert server.client().hget("{ams}:usage:month:" + f"{datetime.now(UTC):%Y-%m}", "k-1") == b"20"


async def test_redis_away_loses_nothing(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    async with Gateway(server, path) as ledger:
        ledger.add(entry())
        await asyncio.sleep(0.6)
        server.pause()
        for _ in range(20):
            ledger.add(entry())
            await asyncio.sleep(0.05)
        with pytest.raises(StoreUnavailable):
            await rows_of(ledger, *FOREVER_FEW)
        assert (await ledger.month_tokens(["k-1"]))["k-1"] >= 400
        assert ledger._metrics.waiting >= 1
    async with Gateway(server, path) as ledger:  # it starts while Redis is away, with what the last one left
        ledger.add(entry())
        with pytest.raises(StoreUnavailable):
            await rows_of(ledger, *FOREVER_FEW)
    server.resume()
    async with Gateway(server, path) as ledger:
        assert total(await rows_of(ledger, *FOREVER_FEW)).requests == 22
        assert ledger._metrics.waiting == 0


async def test_a_batch_whose_answer_is_lost_counts_once(server: RedisServer, tmp_path: Path) -> None:
    async with Gateway(server, tmp_path / "usage.db") as ledger:
        run = ledger._link.run
        failures = iter([True, False, True])

        async def lose_the_answer(*args: Any, **options: Any) -> Any:
            answer = await run(*args, **options)
            if next(failures, False):
                ledger._link._lose("the answer was lost", "lost")
                await run(*args, **options)
            return answer

        ledger._link.run = lose_the_answer  # type: ignore[method-assign]
        for _ in range(10):
            ledger.add(entry())
            await asyncio.sleep(0.35)
        rows = await rows_of(ledger, *FOREVER_FEW)
    assert total(rows).requests == 10


async def test_an_outbox_that_was_copied_back_takes_another_name(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    async with Gateway(server, path) as ledger:
        ledger.add(entry())
        assert total(await rows_of(ledger, *FOREVER_FEW)).requests == 1
    copy = path.read_bytes()
    async with Gateway(server, path) as ledger:
        for _ in range(3):
            ledger.add(entry())
            assert await rows_of(ledger, *FOREVER_FEW)
    path.write_bytes(copy)
    async with Gateway(server, path) as ledger:
        ledger.add(entry())
        assert total(await rows_of(ledger, *FOREVER_FEW)).requests == 5


async def test_what_was_kept_without_redis_is_sent_once_there_is_one(server: RedisServer, tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    alone = kept(path)
    alone.add(entry())
    await alone.close()
    async with Gateway(server, path) as ledger:
        assert total(await rows_of(ledger, *FOREVER_FEW)).requests == 1
    async with Gateway(server, path) as ledger:
        assert total(await rows_of(ledger, *FOREVER_FEW)).requests == 1


async def test_an_outbox_in_use_is_left_alone(
    server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "usage.db"
    async with Gateway(server, path) as one, Gateway(server, path) as two:
        one.add(entry())
        await one.flush()
        two.add(entry())
        await two.flush()
        await rows_of(one, *FOREVER_FEW)
        assert total(await rows_of(two, *FOREVER_FEW)).requests == 2
    assert "another process has it open" in caplog.text
    caplog.clear()


def test_batches_are_sent_in_order_until_they_are_dropped(tmp_path: Path) -> None:
    group = Group(0, "k", "k", "m", "answered")
    outbox = Outbox(tmp_path / "usage.db")
    assert outbox.next_batch() is None
    outbox.put({group: Sums(requests=1)})
    first = outbox.next_batch()
    assert first is not None
    assert (first.number, first.again, first.rows) == (1, False, [(group, Sums(requests=1))])
    outbox.put({group: Sums(requests=2)})
    outbox.close()
    outbox = Outbox(tmp_path / "usage.db")
    again = outbox.next_batch()
    assert again == first._replace(again=True)
    assert merged(outbox.rows()) == {group: Sums(requests=3)}
    outbox.drop(again)
    second = outbox.next_batch()
    assert second is not None
    assert (second.number, second.outbox, second.rows) == (2, first.outbox, [(group, Sums(requests=2))])
    outbox.drop(second)
    assert outbox.next_batch() is None
    outbox.close()
