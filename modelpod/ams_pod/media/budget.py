"""Memory for decoded media, shared by all requests of a pod."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator

from ams_common.errors import ApiError

from ams_pod.shares import EVERYBODY, Share


class ByteBudget:
    """Bytes are taken by the key first that holds least for its weight, of each in the order of asking; nobody is
    overtaken by who comes later and needs less, so that a large request isn't for ever. One event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._held: Counter[str] = Counter()
        self._waiting: list[tuple[Share, int, asyncio.Future[None]]] = []

    @contextlib.asynccontextmanager
    async def reserved(self, size: int, share: Share = EVERYBODY) -> AsyncIterator["HeldBytes"]:
        """Wait for room and keep it inside the block. ApiError `media_too_large` if there never is so much."""
        if size > self.total:
            raise ApiError(
                "media_too_large",
                f"The request's media need {size:,} bytes of memory to decode; at most {self.total:,} are allowed.",
                limit=self.total, given=size,
            )  # fmt: skip
        await self._wait(size, share)
        held = HeldBytes(self, size, share.key)
        try:
            yield held
        finally:
            held.shrink(0)

    async def _wait(self, size: int, share: Share) -> None:
        turn = asyncio.get_running_loop().create_future()
        entry = (share, size, turn)
        self._waiting.append(entry)
        self._call_next()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size, share.key)
            else:
                self._waiting.remove(entry)
                self._call_next()
            raise

    def take(self, size: int, key: str) -> bool:
        """Whether there was room for it."""
        if self.used + size > self.total:
            return False
        self.used += size
        self._held[key] += size
        return True

    def give_back(self, size: int, key: str) -> None:
        self.used -= size
        self._held[key] -= size
        if not self._held[key]:
            del self._held[key]
        self._call_next()

    def _call_next(self) -> None:
        while staying := [entry for entry in self._waiting if not entry[2].done()]:  # the others are leaving
            entry = min(staying, key=lambda each: self._held[each[0].key] / each[0].weight)
            share, size, turn = entry
            if not self.take(size, share.key):
                return
            self._waiting.remove(entry)
            turn.set_result(None)


class HeldBytes:
    """What one request holds, in `bytes`."""

    def __init__(self, budget: ByteBudget, size: int, key: str) -> None:
        self._budget, self._key = budget, key
        self.bytes = size

    def grow(self, size: int) -> bool:
        """Hold this much more; False if there is no room for it now. Waiting for it, two could wait for each other."""
        if not self._budget.take(size, self._key):
            return False
        self.bytes += size
        return True

    def shrink(self, size: int) -> None:
        """Keep at most this much from now on."""
        if size < self.bytes:
            self._budget.give_back(self.bytes - size, self._key)
            self.bytes = size
