"""A change that any number of tasks can wait for."""

import asyncio
import contextlib


class Broadcast:
    """`notify()` wakes everyone who waits now. `version` counts changes, so that none between two waits is lost."""

    def __init__(self) -> None:
        self.version = 1
        self._next = asyncio.Event()

    def notify(self) -> None:
        self.version += 1
        self._next.set()
        self._next = asyncio.Event()

    async def changed_since(self, version: int, timeout_seconds: float | None = None) -> None:
        """Return when there was a change after `version`, or when the time is over."""
        if self.version != version:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._next.wait()
