"""A change that any number of tasks can wait for."""

import asyncio
import contextlib


class Pulse:
    """`beat()` wakes everyone who waits now. A change between two waits isn't lost: pass what `count` was."""

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def beat(self) -> None:
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def after(self, count: int, seconds: float | None = None) -> None:
        """Return when there was a beat after `count`, or when `seconds` went by."""
        if self.count != count:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._next.wait()
