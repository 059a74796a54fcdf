"""Threads that keys share: who waits longest for the key that was served least is next, not who came first."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, TypeVarTuple

from ams_pod.shares import EVERYBODY, FairShares, Share
from ams_pod.waits import Waits

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class FairPool:
    """Of one event loop. Beside `threads` there are `spare` ones, for keys of which nothing runs."""

    def __init__(self, threads: int, name: str, spare: int = 0) -> None:
        self.executor = ThreadPoolExecutor(threads + spare, name)
        self._threads, self._spare = threads, spare
        self._running: Counter[str] = Counter()
        self._waiting: list[tuple[Share, asyncio.Future[None]]] = []
        self._shares = FairShares()

    @contextlib.asynccontextmanager
    async def turn(self, share: Share, waits: Waits | None = None) -> AsyncIterator[ThreadPoolExecutor]:
        """Wait for a thread, which the block may use; `waits` is told how long that took."""
        self._shares.enter(share)
        if self._waiting or not self._free(share):
            await self._wait(share)
        else:
            self._running[share.key] += 1
        started = time.monotonic()
        if waits is not None:
            waits.note("pool", started)
        try:
            yield self.executor
        finally:
            self._shares.charge(share, time.monotonic() - started)
            self._end(share)

    async def run(
        self, function: Callable[[*Ts], T], *arguments: *Ts, share: Share = EVERYBODY, waits: Waits | None = None
    ) -> T:
        """The result of a call in a thread."""
        async with self.turn(share, waits) as executor:
            return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    def close(self) -> None:
        self.executor.shutdown(wait=False, cancel_futures=True)

    async def _wait(self, share: Share) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((share, turn))
        self._call_next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._end(share)
            else:
                self._waiting.remove((share, turn))
            raise

    def _free(self, share: Share) -> bool:
        spare = 0 if self._running[share.key] else self._spare
        return self._running.total() < self._threads + spare

    def _end(self, share: Share) -> None:
        self._running[share.key] -= 1
        if not self._running[share.key]:
            del self._running[share.key]
        self._call_next()

    def _call_next(self) -> None:
        for share, group in self._shares.by_key(self._waiting, lambda entry: entry[0]):
            for entry in group:
                if entry[1].done():
                    continue  # it is leaving
                if not self._free(share):
                    break
                self._waiting.remove(entry)
                self._running[share.key] += 1
                entry[1].set_result(None)
