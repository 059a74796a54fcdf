"""How far the download is: counted by the threads that transfer, read as `Progress`."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ams_common.lifecycle import Phase
from ams_common.progress import Download, Failure, Progress

_SMOOTH_SECONDS = 5.0


@dataclass
class Rate:
    """Bytes a second, smoothed over some five seconds. Pure but for its own state; times are monotonic seconds."""

    per_second: float | None = None
    _at: float | None = None
    _waiting: int = 0

    def update(self, count: int, now: float) -> None:
        """Count bytes that came until `now`."""
        if self._at is None:  # what came before took an unknown time
            self._at = now
            return
        self._waiting += count
        if (span := now - self._at) < 0.2:
            return
        current = self._waiting / span
        weight = min(1.0, span / _SMOOTH_SECONDS)
        self.per_second = current if self.per_second is None else self.per_second + weight * (current - self.per_second)
        self._at, self._waiting = now, 0


class Tracker:
    """The state of one download, safe to change and read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._phase = Phase.STARTING
        self._message = ""
        self._files: dict[str, int] = {}  # in transfer, and their sizes
        self._done = 0
        self._total: int | None = None
        self._rate = Rate()
        self._failure: Failure | None = None
        self._other: Progress | None = None
        self.transferred = 0  # bytes received by this process, for the metrics

    def begin(self, phase: Phase, *, message: str = "", done: int = 0, total: int | None = None) -> None:
        """Enter a phase; `done` of `total` bytes are there already."""
        with self._lock:
            self._phase, self._message, self._files = phase, message, {}
            self._done, self._total, self._rate = done, total, Rate()
            self._other = None

    def file(self, path: str, size: int | None = None) -> None:
        """A file in transfer, of `size` bytes if known; the largest one is shown."""
        with self._lock:
            self._files[path] = size or 0

    def file_done(self, path: str) -> None:
        with self._lock:
            self._files.pop(path, None)

    def add(self, count: int, *, received: bool = False) -> None:
        """Count bytes of the phase; negative when some turned out useless. `received` ones came over the network."""
        with self._lock:
            self._done += count
            if received:
                self.transferred += count
                self._rate.update(count, self._clock())

    def follow(self, other: Progress | None, message: str) -> None:
        """Show the progress of another process, that this one waits for."""
        with self._lock:
            self._other, self._message = other, message

    def fail(self, failure: Failure) -> None:
        with self._lock:
            self._phase, self._failure, self._other = Phase.FAILED, failure, None

    def snapshot(self) -> Progress:
        """The state at this moment."""
        with self._lock:
            if self._failure is not None:
                return Progress(Phase.FAILED, message=self._failure.message, failure=self._failure)
            if self._other is not None:
                other = self._other
                return Progress(
                    other.phase, other.percent, other.eta_seconds, self._message, other.download, other.failure
                )
            if self._phase not in (Phase.DOWNLOADING, Phase.VERIFYING):
                return Progress(self._phase, message=self._message)
            return self._counted()

    def _counted(self) -> Progress:
        self._rate.update(0, self._clock())  # a transfer that stands still slows down here too
        rate, total, done = self._rate.per_second, self._total, self._done
        eta = (total - done) / rate if total is not None and rate else None
        percent = None if total is None else 100.0 if total == 0 else min(100.0, round(100 * done / total, 1))
        download = Download(
            bytesDone=done,
            bytesTotal=total,
            bytesPerSecond=None if rate is None else round(rate, 1),
            etaSeconds=None if eta is None else round(eta, 1),
            file=max(self._files, key=lambda path: self._files[path], default=None),
        )
        return Progress(self._phase, percent, download.etaSeconds, self._message, download)
