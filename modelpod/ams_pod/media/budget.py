"""Memory for decoded media, shared by all requests of a pod."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from ams_common.errors import ApiError


class ByteBudget:
    """Bytes are taken in the order of asking, so that a large request isn't overtaken for ever. One event loop."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def reserved(self, size: int) -> AsyncIterator["Share"]:
        """Wait for room and keep it inside the block. ApiError `media_too_large` if there never is so much."""
        if size > self.total:
            raise ApiError(
                "media_too_large",
                f"The request's media need {size:,} bytes of memory to decode; at most {self.total:,} are allowed.",
                limit=self.total, given=size,
            )  # fmt: skip
        await self._take(size)
        share = Share(self, size)
        try:
            yield share
        finally:
            share.shrink(0)

    async def _take(self, size: int) -> None:
        if not self._waiting and self.used + size <= self.total:
            self.used += size
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(size)
            else:
                self._waiting.remove((size, turn))
                self.give_back(0)
            raise

    def give_back(self, size: int) -> None:
        self.used -= size
        while self._waiting and self.used + self._waiting[0][0] <= self.total:
            size, turn = self._waiting.popleft()
            self.used += size
            turn.set_result(None)


class Share:
    """What one request holds, in `bytes`."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self.bytes = size

    def grow(self, size: int) -> bool:
        """Hold this much more; False if there is no room for it now. Waiting for it, two could wait for each other."""
        if self._budget.used + size > self._budget.total:
            return False
        self._budget.used += size
        self.bytes += size
        return True

    def shrink(self, size: int) -> None:
        """Keep at most this much from now on."""
        if size < self.bytes:
            self._budget.give_back(self.bytes - size)
            self.bytes = size
