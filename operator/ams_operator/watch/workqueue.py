"""Keys that want attention: each one serially, many side by side, again after a while, and slower after failures."""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ams_common.backoff import backoff_seconds
from ams_kube.errors import KubeError

log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.25, 60.0

Work = Callable[[str], Awaitable[float | None]]
"""Gets a key; gives in how many seconds it wants that key again, None if not by itself."""


@dataclass
class _Entry:
    queued_at: float | None = None  # waits for a worker since then
    running: bool = False
    again: bool = False  # was added while it ran
    first: bool = False  # and goes before the others
    failures: int = 0
    timer: asyncio.TimerHandle | None = None


class WorkQueue:
    """Works on each key that is added, `at_once` of them side by side, and never twice on one at the same time."""

    def __init__(self, *, at_once: int) -> None:
        self._work: Work | None = None
        self._at_once = at_once
        self._entries: dict[str, _Entry] = {}
        self._urgent: deque[str] = deque()
        self._ready: deque[str] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._stopped = False

    def start(self, work: Work) -> None:
        """Begin; keys that were added before are kept until then."""
        self._work = work
        self._fill()

    def add(self, key: str, after: float = 0.0, *, first: bool = False) -> None:
        """Work on `key` now, or in `after` seconds if nothing does so earlier; `first` goes before the others."""
        if self._stopped:
            return
        entry = self._entries.setdefault(key, _Entry())
        if after > 0:
            self._add_later(key, entry, after)
            return
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.running:
            entry.again, entry.first = True, entry.first or first
        elif entry.queued_at is None:
            entry.queued_at = time.monotonic()
            (self._urgent if first else self._ready).append(key)
            self._fill()
        elif first and key in self._ready:
            self._ready.remove(key)
            self._urgent.append(key)

    async def stop(self, seconds: float) -> None:
        """Begin nothing more, and give what runs some time to end."""
        self._stopped = True
        self._ready.clear()
        self._urgent.clear()
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    @property
    def depth(self) -> int:
        return len(self._ready) + len(self._urgent)

    @property
    def age_seconds(self) -> float:
        """How long the first one waits."""
        heads = [self._entries[waiting[0]].queued_at for waiting in (self._urgent, self._ready) if waiting]
        return max((time.monotonic() - since for since in heads if since is not None), default=0.0)

    def _add_later(self, key: str, entry: _Entry, after: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + after
        if entry.timer is not None:
            if entry.timer.when() <= at:
                return
            entry.timer.cancel()
        entry.timer = loop.call_later(after, self._due, key)

    def _due(self, key: str) -> None:
        if (entry := self._entries.get(key)) is not None:
            entry.timer = None
            self.add(key)

    def _fill(self) -> None:
        while self.depth and self._work is not None and not self._stopped and len(self._running) < self._at_once:
            key = (self._urgent or self._ready).popleft()
            entry = self._entries[key]
            entry.queued_at, entry.running, entry.again, entry.first = None, True, False, False
            task = asyncio.create_task(self._run(self._work, key, entry))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._fill()

    async def _run(self, work: Work, key: str, entry: _Entry) -> None:
        after: float | None = None
        try:
            after = await work(key)
            entry.failures = 0
        except Exception as error:
            entry.failures += 1
            after = backoff_seconds(
                entry.failures, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS
            )
            log.warning(
                "%s: %s; again in %.1f s", key, str(error) or type(error).__name__, after, exc_info=_trace(error)
            )
        finally:
            entry.running = False
        if entry.again and not entry.failures:
            self.add(key, first=entry.first)
        elif after is not None:
            self.add(key, max(after, 0.001))
        elif entry.timer is None and entry.queued_at is None:
            self._entries.pop(key, None)


def _trace(error: Exception) -> Exception | None:
    """The trace of a mistake of ours; an API server's answer needs none."""
    return None if isinstance(error, KubeError | TimeoutError) else error
