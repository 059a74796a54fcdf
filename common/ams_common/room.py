"""How slow a client may send its body, and how many bytes of all bodies may be in memory and in files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

from ams_common.errors import ApiError

RETRY_AFTER_SECONDS = 5.0
STALLED_SECONDS = 2.0
MOVED_BYTES = 16 << 10  # fewer are no sign of life
_CLOCK_SECONDS = 0.01  # timers of the loop may fire a little early


@dataclass(frozen=True, slots=True)
class PaceLimits:
    """Seconds of silence and in all, and bytes a second over each `silence_seconds`."""

    silence_seconds: float
    total_seconds: float
    bytes_per_second: float


class Pace:
    """The pace of one body. Times are the event loop's, in seconds."""

    __slots__ = ("_began", "_limits", "_window_began", "_window_bytes")

    def __init__(self, limits: PaceLimits, now: float) -> None:
        self._limits = limits
        self._began = self._window_began = now
        self._window_bytes = 0

    def patience(self, now: float) -> float:
        """How long to wait for the next bytes."""
        return max(min(self._limits.silence_seconds, self._began + self._limits.total_seconds - now), 0.0)

    def note(self, count: int, now: float) -> None:
        """Bytes came; none: the body is complete. ApiError `request_timeout` when they come too slowly."""
        self._window_bytes += count
        seconds = now - self._window_began
        if not count or seconds < self._limits.silence_seconds:
            return
        if self._window_bytes < seconds * self._limits.bytes_per_second:
            raise ApiError(
                "request_timeout",
                f"The body comes slower than {self._limits.bytes_per_second:,g} bytes a second.",
                limit=self._limits.bytes_per_second,
            )
        self._window_began, self._window_bytes = now, 0

    def timed_out(self, now: float) -> ApiError:
        if now - self._began > self._limits.total_seconds - _CLOCK_SECONDS:
            return ApiError(
                "request_timeout", f"The body did not arrive within {self._limits.total_seconds:g} seconds."
            )
        return ApiError(
            "request_timeout", f"The client sent nothing of its body for {self._limits.silence_seconds:g} seconds."
        )


class Room:
    """Bytes of unfinished bodies in memory, and of large bodies in files, over all requests of a process.

    Where memory is full, a body that has stopped coming makes room for one that comes.
    """

    def __init__(self, memory_bytes: int, file_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.file_bytes = file_bytes
        self.in_memory = 0
        self.in_files = 0
        self._shares: set[Share] = set()

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """What one body takes of the room; given back when the block ends."""
        share = Share(self)
        self._shares.add(share)
        try:
            yield share
        finally:
            share.give_back()
            self._shares.discard(share)

    def make_way(self, now: float) -> None:
        """End the bodies that have stalled the longest, until there is room or no other has stalled."""
        stalled = (share for share in self._shares if share.in_memory and share.stalled_seconds(now) >= STALLED_SECONDS)
        for share in sorted(stalled, key=lambda each: each.moved_at):
            if self.in_memory <= self.memory_bytes:
                return
            share.end()


class Share:
    """`leave` ends the wait of whoever reads the body; it is told `ended` by that."""

    __slots__ = ("_marked", "_room", "ended", "in_files", "in_memory", "leave", "moved_at")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._marked = 0
        self.in_memory = 0
        self.in_files = 0
        self.moved_at = -inf
        self.ended = False
        self.leave: Callable[[], None] | None = None

    def keep(self, count: int, now: float) -> None:
        """This body has so many bytes in memory now. ApiError `overloaded` when all have too many."""
        if self.ended:
            raise self.overloaded()
        self._room.in_memory += count - self.in_memory
        self.in_memory = count
        if abs(count - self._marked) >= MOVED_BYTES or self.moved_at == -inf:
            self._marked, self.moved_at = count, now
        if count and self._room.in_memory > self._room.memory_bytes:
            self._room.make_way(now)
            if self._room.in_memory > self._room.memory_bytes:
                raise self.overloaded()

    def put_into_file(self, count: int) -> None:
        """So many bytes more go into its file. ApiError `overloaded` when all files have too many."""
        self._room.in_files += count
        self.in_files += count
        if self._room.in_files > self._room.file_bytes:
            raise _overloaded(self._room.file_bytes)

    def stalled_seconds(self, now: float) -> float:
        """Since when next to nothing came of it."""
        return now - self.moved_at

    def end(self) -> None:
        """Another body gets its room."""
        self._room.in_memory -= self.in_memory
        self.in_memory = 0
        self.ended = True
        if self.leave is not None:
            self.leave()

    def overloaded(self) -> ApiError:
        return _overloaded(self._room.memory_bytes)

    def give_back(self) -> None:
        self._room.in_memory -= self.in_memory
        self._room.in_files -= self.in_files
        self.in_memory = self.in_files = 0


def _overloaded(limit: int) -> ApiError:
    return ApiError(
        "overloaded",
        "Too many bodies are being received at once.",
        retry_after=RETRY_AFTER_SECONDS,
        limit=limit,
    )
