"""By how much the event loop is late: what a gateway without time makes every request wait."""

import asyncio
import time
from collections import deque

_EVERY_SECONDS = 0.25
_LEAST_SECONDS = 0.05
_MOST = 2400


class LoopLateness:
    """`watch` looks four times a second; `since` sums up what was found, as far as it is remembered."""

    def __init__(self) -> None:
        self._late: deque[tuple[float, float]] = deque(maxlen=_MOST)  # when it was found, seconds
        self.found_at = 0.0  # when it was found last, by `time.perf_counter()`

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            due = time.perf_counter() + _EVERY_SECONDS
            await asyncio.sleep(_EVERY_SECONDS)
            now = time.perf_counter()
            if now - due >= _LEAST_SECONDS:
                self._late.append((now, now - due))
                self.found_at = now

    def since(self, began: float) -> float:
        """Seconds by which the loop was late since `began`, by `time.perf_counter()`."""
        total = 0.0
        for found, late in reversed(self._late):
            if found <= began:
                break
            total += late
        return total

    def worst(self, seconds: float) -> float:
        """The most seconds by which it was late at once, in the last so many seconds."""
        began = time.perf_counter() - seconds
        return max((late for found, late in self._late if found > began), default=0.0)
