"""For how long a kind hasn't been listed or heard of: what tells a watch that works from one that only seems to."""

import time
from collections.abc import Callable, Iterable


class Freshness:
    """Times of one watch. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._listed_at = self._tried_at = clock()

    def listed(self) -> None:
        """The API server listed the kind, or sent an event or a bookmark of it."""
        self._listed_at = self._tried_at = self._clock()

    def tried(self) -> None:
        """It was asked, whatever it answers."""
        self._tried_at = self._clock()

    @property
    def unlisted_seconds(self) -> float:
        """Since the kind was last listed: long where the API server or the kind is away."""
        return self._clock() - self._listed_at

    @property
    def untried_seconds(self) -> float:
        """Since anybody tried: long only where the watch itself is stuck."""
        return self._clock() - self._tried_at


def overdue(ages: Iterable[tuple[str, float]], limit: float) -> str:
    """Which kinds are older than `limit` seconds, in words; empty if none is."""
    return ", ".join(f"{kind} for {age:.0f} s" for kind, age in ages if age > limit)
