"""How slow a client may send its body, and how many bytes of all bodies may be in memory and in files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ams_common.errors import ApiError

RETRY_AFTER_SECONDS = 5.0
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
    """Bytes of unfinished bodies in memory, and of large bodies in files, over all requests of a process."""

    def __init__(self, memory_bytes: int, file_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self.file_bytes = file_bytes
        self.in_memory = 0
        self.in_files = 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """What one body takes of the room; given back when the block ends."""
        share = Share(self)
        try:
            yield share
        finally:
            share.give_back()


class Share:
    __slots__ = ("_room", "in_files", "in_memory")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.in_memory = 0
        self.in_files = 0

    def keep(self, count: int) -> None:
        """This body has so many bytes in memory now. ApiError `overloaded` when all have too many."""
        self._room.in_memory += count - self.in_memory
        self.in_memory = count
        if count and self._room.in_memory > self._room.memory_bytes:
            raise _overloaded(self._room.memory_bytes)

    def put_into_file(self, count: int) -> None:
        """So many bytes more go into its file. ApiError `overloaded` when all files have too many."""
        self._room.in_files += count
        self.in_files += count
        if self._room.in_files > self._room.file_bytes:
            raise _overloaded(self._room.file_bytes)

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
