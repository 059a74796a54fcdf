"""The part of a ledger that takes entries: adds them up in memory, and hands them on a few times a second."""

import abc
import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from ams_gateway.usage.metrics import UsageMetrics
from ams_gateway.usage.port import Entry, Outcome
from ams_gateway.usage.sums import HOUR, Group, Rows, Sums, Take, group_at, merged

logger = logging.getLogger("ams_gateway")

T = TypeVar("T")
Place: TypeAlias = tuple[int, str, str, str, Outcome]
"""Number of the hour, id and name of the key, model, outcome: a group before it is made one, as requests come fast."""

_COLLECT_SECONDS = 0.4  # of a second that may be lost, the rest is for writing
_MOST_NAMES = 20_000
_RETRY_SECONDS = 2.0  # until what couldn't be written is tried again


class CollectingLedger(abc.ABC):
    """Entries by the group that they count in; `store` gets them on a thread of the ledger's own."""

    def __init__(self, metrics: UsageMetrics, *, wall: Callable[[], float] = time.time) -> None:
        self._metrics = metrics
        self._wall = wall
        self._collected: dict[Place, list[int]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="usage")
        self._timer: asyncio.TimerHandle | None = None
        self._storing: asyncio.Future[bool] | None = None
        self._closed = False
        self._names: dict[str, str] = {}  # of users who were here lately, by id

    @abc.abstractmethod
    def store(self, rows: Rows) -> bool:
        """Keep rows, together with those that couldn't be kept before; whether all are safe. On the thread."""

    @abc.abstractmethod
    async def start(self) -> None:
        """Start what runs beside the requests."""

    async def close(self) -> None:
        """Write what is left."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await self.flush()

    def add(self, entry: Entry) -> None:
        self._metrics.count(entry)
        if entry.key_id not in self._names:
            self._note_name(entry.key_id, entry.key_name)
        now = self._wall()
        place = (int(now) // HOUR, entry.key_id, entry.key_name, entry.model, entry.outcome)
        usage = entry.usage
        if (counts := self._collected.get(place)) is None:
            counts = self._collected[place] = [0, 0, 0, 0, 0, 0]
        counts[0] += not entry.late
        counts[1] += usage.prompt_tokens
        counts[2] += usage.cached_tokens
        counts[3] += usage.completion_tokens
        counts[4] += usage.media
        counts[5] += round(usage.compute_seconds * 1e6)
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_COLLECT_SECONDS, self._hand_on)

    def name_of(self, key_id: str) -> str | None:
        """The name of a user who was here since the gateway started, as far as that many are remembered."""
        return self._names.get(key_id)

    def _note_name(self, key_id: str, name: str) -> None:
        if len(self._names) >= _MOST_NAMES:
            del self._names[next(iter(self._names))]
        self._names[key_id] = name

    async def flush(self) -> None:
        """Hand on what was collected, and wait until it was tried to be kept."""
        await asyncio.wait((self._hand_on(),))

    async def on_thread(self, work: Callable[[], T]) -> T:
        """The result of `work`, after all that was handed on before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _hand_on(self) -> "asyncio.Future[bool]":
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        rows, self._collected = merged(self.collected()), {}
        storing = asyncio.get_running_loop().run_in_executor(self._thread, self.store, rows)
        storing.add_done_callback(self._stored)
        return storing

    def _stored(self, storing: "asyncio.Future[bool]") -> None:
        fault = None if storing.cancelled() else storing.exception()
        if fault is not None:
            logger.error("what keys use can't be kept, and waits in memory", exc_info=fault)
        safe = fault is None and not storing.cancelled() and storing.result()
        if not safe and self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._hand_on)

    def collected(self) -> list[tuple[Group, Sums]]:
        """What wasn't handed on yet."""
        return [(group_at(*place), Sums(*counts)) for place, counts in self._collected.items()]


class ReadableLedger(CollectingLedger):
    """A ledger that reports are made of."""

    @abc.abstractmethod
    async def each(self, start: int, end: int, take: Take) -> None:
        """Give `take` the rows of the hours from `start` to before `end`, in Unix time, some at a time and on another
        thread; a group may come twice. StoreUnavailable."""

    @abc.abstractmethod
    async def month_tokens(self, key_ids: Sequence[str]) -> dict[str, int]: ...
