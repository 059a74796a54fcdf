"""The ledger of all gateways in Redis, fed by an outbox of each: nothing is lost or counted twice if Redis is away.

Redis holds a hash for each day, whose fields are groups in JSON and whose values are their sums in msgpack, a hash for
each month with the tokens of keys, and the number of the last batch of each outbox. Days and months have no time to
live, so that a Redis that makes room for kept answers leaves them alone; gateways remove those that are too old.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from ams_gateway.redis_link import PREFIX, RedisAway, RedisLink, RedisRefused, Script
from ams_gateway.usage.collecting import ReadableLedger
from ams_gateway.usage.kept import start_of_month
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.outbox import Batch, Outbox
from ams_gateway.usage.store import StoreUnavailable
from ams_gateway.usage.sums import MOST, Group, Rows, Sums, Take, merged, month_tokens

logger = logging.getLogger("ams_gateway")

_DAY = 86400
_CALL_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_SCAN_COUNT = 500
_PRUNED_DAYS = 100  # that all gateways may have been away
_PRUNE_SECONDS = 6 * 3600.0
_PRUNE_AGAIN_SECONDS = 60.0
_NAME = PREFIX + "usage:"

_SCRIPT = Script(
    """
local number, keep, rows, months = unpack(cmsgpack.unpack(ARGV[1]))
local most = 9007199254740991
if number <= tonumber(redis.call('GET', KEYS[1]) or '0') then return 0 end
for _, row in ipairs(rows) do
  local key, field, sums = KEYS[row[1]], row[2], row[3]
  local before = redis.call('HGET', key, field)
  if before then
    for at, count in ipairs(cmsgpack.unpack(before)) do sums[at] = math.min((sums[at] or 0) + count, most) end
  end
  redis.call('HSET', key, field, cmsgpack.pack(sums))
end
for _, month in ipairs(months) do
  local before = tonumber(redis.call('HGET', KEYS[month[1]], month[2]) or '0') or 0
  redis.call('HSET', KEYS[month[1]], month[2], string.format('%.0f', math.min(before + month[3], most)))
end
redis.call('SET', KEYS[1], string.format('%.0f', number), 'EX', keep)
return 1
"""
)


class SharedLedger(ReadableLedger):
    """A Ledger in Redis. Start it after the link, close it before."""

    def __init__(
        self,
        link: RedisLink,
        path: Path | None,
        metrics: UsageMetrics,
        *,
        days: int,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(metrics, wall=wall)
        self._link = link
        self._path = path
        self._days = days
        self._outbox: Outbox | None = None
        self._sending = asyncio.Lock()
        self._stored_some = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._pruning: asyncio.Task[None] | None = None
        self._refused = ""

    def store(self, rows: Rows) -> bool:
        safe = self._box().put(rows)
        self._metrics.waiting = self._box().waiting
        return safe

    def _box(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self._path)
        return self._outbox

    async def start(self) -> None:
        self._link.listen(lambda up: self._stored_some.set())
        self._stored_some.set()  # what is left of the last time
        self._sender = asyncio.create_task(self._send_on())
        self._pruning = asyncio.create_task(self._prune())

    async def close(self) -> None:
        if self._closed:
            return
        await super().close()
        for task in filter(None, (self._sender, self._pruning)):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self._link.up:
            await self._send_all()
        await self.on_thread(lambda: self._box().close())
        self._thread.shutdown()

    def _stored(self, storing: "asyncio.Future[bool]") -> None:
        super()._stored(storing)
        self._stored_some.set()

    async def _prune(self) -> None:
        """Forget days that are too old, and months that began a month before those."""
        while True:
            today = int(self._wall())
            days = [today - (self._days + 1 + past) * _DAY for past in range(_PRUNED_DAYS)]
            old = {_day_key(day) for day in days} | {_month_key(day - 31 * _DAY) for day in days}
            try:
                await self._link.call("UNLINK", *old, seconds=_CALL_SECONDS)
            except RedisAway:
                await asyncio.sleep(_PRUNE_AGAIN_SECONDS)
                continue
            await asyncio.sleep(_PRUNE_SECONDS)

    async def _send_on(self) -> None:
        while True:
            await self._stored_some.wait()
            self._stored_some.clear()
            try:
                failed = bool(self._link.up and await self._send_all())
            except Exception:
                logger.exception("what keys use can't be sent to Redis, and waits")
                failed = True
            if failed:
                await asyncio.sleep(_RETRY_SECONDS)
                self._stored_some.set()

    async def _send_all(self) -> str:
        """Send all that is in the outbox; "", or why that fails."""
        try:
            async with self._sending:
                while (batch := await self.on_thread(lambda: self._box().next_batch())) is not None:
                    if await self._send(batch) and batch.may_be_last:
                        break
        except RedisRefused as error:
            if str(error) != self._refused:
                self._refused = str(error)
                logger.error("what keys use can't be sent to Redis, and waits: %s", error)
            return f"Redis refuses: {error}"
        except RedisAway as error:
            return f"Redis is away: {error}"
        except StoreUnavailable as error:
            return str(error)
        self._refused = ""
        return ""

    async def _send(self, batch: Batch) -> bool:
        """Whether Redis has the batch now. RedisAway."""
        keys = [f"{_NAME}outbox:{batch.outbox}"]
        places: dict[str, int] = {}

        def place(key: str) -> int:
            if key not in places:
                keys.append(key)
                places[key] = len(keys)
            return places[key]

        rows: list[Any] = []
        tokens: dict[tuple[int, str], int] = {}
        for group, sums in batch.rows:
            rows.append((place(_day_key(group.hour)), msgspec.json.encode(group).decode(), sums.bounded()))
            month = (place(_month_key(group.hour)), group.key_id)
            tokens[month] = tokens.get(month, 0) + sums.tokens
        months = [(*month, min(count, MOST)) for month, count in tokens.items() if count]
        message = msgspec.msgpack.encode((batch.number, (self._days + 1) * _DAY, rows, months))
        done = await self._link.run(_SCRIPT, keys, message, seconds=_CALL_SECONDS)
        if not done and not batch.again:
            await self.on_thread(lambda: self._box().rename())
            return False
        await self.on_thread(lambda: self._box().drop(batch))
        self._metrics.waiting = self._box().waiting
        return True

    async def each(self, start: int, end: int, take: Take) -> None:
        """StoreUnavailable while Redis is away."""
        await self.flush()
        if fault := await self._send_all():
            raise StoreUnavailable(fault)
        try:
            for day in range(start // _DAY * _DAY, end, _DAY):
                if rows := [row for row in await self._day(day) if start <= row[0].hour < end]:
                    await asyncio.to_thread(take, rows)
        except RedisAway as error:
            raise StoreUnavailable(f"Redis is away: {error}") from None

    async def _day(self, day: int) -> list[tuple[Group, Sums]]:
        """A day's rows, a few at a time: others want something of Redis too."""
        found: dict[bytes, bytes] = {}
        cursor: bytes | int = 0
        while True:
            cursor, flat = await self._link.call(
                "HSCAN", _day_key(day), cursor, "COUNT", _SCAN_COUNT, seconds=_CALL_SECONDS
            )
            found.update(zip(flat[::2], flat[1::2], strict=True))
            if int(cursor) == 0:
                break
        rows = []
        for field, value in found.items():
            try:
                rows.append((msgspec.json.decode(field, type=Group), msgspec.msgpack.decode(value, type=Sums)))
            except msgspec.DecodeError:
                logger.debug("a row of the ledger in Redis can't be read")
        return rows

    async def month_tokens(self, key_ids: Sequence[str]) -> dict[str, int]:
        """What can be known: while Redis is away, only what it doesn't have yet."""
        start = start_of_month(self._wall())
        end = start + 32 * _DAY
        waiting = self.collected()
        if key_ids and self._link.up:
            try:
                counts = await self._link.call("HMGET", _month_key(start), *key_ids)
            except RedisAway:
                counts = [None] * len(key_ids)
        else:
            counts = [None] * len(key_ids)
        with contextlib.suppress(StoreUnavailable):
            waiting = list(merged(waiting, await self.on_thread(lambda: self._box().rows())).items())
        unsent = month_tokens(waiting, key_ids, start, end)
        return {key_id: _number(count) + unsent.get(key_id, 0) for key_id, count in zip(key_ids, counts, strict=True)}


def _day_key(hour: int) -> str:
    return f"{_NAME}day:{datetime.fromtimestamp(hour, UTC):%Y-%m-%d}"


def _month_key(hour: int) -> str:
    return f"{_NAME}month:{datetime.fromtimestamp(hour, UTC):%Y-%m}"


def _number(count: bytes | None) -> int:
    try:
        return int(count or 0)
    except ValueError:
        return 0
