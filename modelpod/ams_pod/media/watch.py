"""When decoding has to stop: the client left, or the item takes too long."""

import threading
import time

from ams_common.errors import ApiError


class DecodingStopped(Exception):
    """Nobody waits for the result any more."""


class Watch:
    """Of one request. `cancel` may be called from any thread; `item` begins an item, `check` is called often."""

    def __init__(self, cpu_seconds: float) -> None:
        self._limit = cpu_seconds
        self._cancelled = threading.Event()
        self._field = ""
        self._until = float("inf")

    def cancel(self) -> None:
        self._cancelled.set()

    def item(self, field: str) -> None:
        """What follows is the item of this field, in this thread: its time counts from here."""
        self._field = field
        self._until = time.thread_time() + self._limit

    def check(self) -> None:
        """DecodingStopped when cancelled, ApiError `media_too_large` past the processor time of one item."""
        if self._cancelled.is_set():
            raise DecodingStopped
        if time.thread_time() > self._until:
            raise ApiError(
                "media_too_large",
                f"{self._field}: decoding took more than {self._limit:g} seconds of processor time; send it smaller "
                "or shorter.",
                param=self._field, limit_seconds=self._limit,
            )  # fmt: skip
