"""The ledger of one gateway, in a file or in memory."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from ams_gateway.usage.collecting import ReadableLedger
from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.store import Store
from ams_gateway.usage.sums import Rows, Take

_DAY = 86400
_PRUNE_SECONDS = 6 * 3600.0


class KeptLedger(ReadableLedger):
    """A Ledger in SQLite; without a path in memory, until the gateway ends. Hours older than `days` are forgotten."""

    def __init__(
        self, path: Path | None, metrics: UsageMetrics, *, days: int, wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(metrics, wall=wall)
        self._days = days
        self._store = Store(path)
        self._pruning: asyncio.Task[None] | None = None

    def store(self, rows: Rows) -> bool:
        safe = self._store.add(rows)
        self._metrics.waiting = self._store.waiting
        return safe

    async def start(self) -> None:
        self._pruning = asyncio.create_task(self._prune())

    async def close(self) -> None:
        if self._closed:
            return
        if self._pruning is not None:
            self._pruning.cancel()
        await super().close()
        await self.on_thread(self._store.close)
        self._thread.shutdown()

    async def each(self, start: int, end: int, take: Take) -> None:
        await self.flush()
        await self.on_thread(lambda: self._store.each(start, end, take))

    async def month_tokens(self, key_ids: Sequence[str]) -> dict[str, int]:
        await self.flush()
        return await self.on_thread(lambda: self._store.tokens(key_ids, start_of_month(self._wall())))

    async def _prune(self) -> None:
        while True:
            before = int(self._wall()) - self._days * _DAY
            await self.on_thread(lambda before=before: self._store.prune(before))  # type: ignore[misc]
            await asyncio.sleep(_PRUNE_SECONDS)


def start_of_month(now: float) -> int:
    """The Unix time at which the calendar month of `now` began, in UTC."""
    return int(datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0).timestamp())
