"""Keys in a file, read again within a second or two of a change."""

import asyncio
import contextlib
import os
import stat
from pathlib import Path

from ams_common.keys import MOST_BYTES

from ams_gateway.auth.keys import Keys

_LOOK_SECONDS = 1.0

_Seen = tuple[int, int, int, int]


class KeyFile:
    """Keeps `keys` like the file at `path`. `optional`: where there never was a file, there are no keys."""

    def __init__(self, keys: Keys, path: Path, *, optional: bool) -> None:
        self._keys = keys
        self._path = path
        self._optional = optional
        self._seen: _Seen | None = None
        self._task: asyncio.Task[None] | None = None

    def read(self) -> None:
        """Look at the file, and take what is new in it. Blocks for as long as the disk does."""
        self._take(*self._look())

    def start(self) -> None:
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._take(*await asyncio.to_thread(self._look))

    def _look(self) -> tuple[_Seen | None, bytes | None, str]:
        """(what it looks like, its content if that is new, what is wrong)."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not block
        except FileNotFoundError:
            missing = self._optional and self._seen is None
            return None, None, "" if missing else "doesn't exist"
        except OSError as error:
            return None, None, f"can't be read: {error.strerror}"
        with contextlib.closing(_File(descriptor)) as file:
            info = os.fstat(descriptor)
            seen = (info.st_ino, info.st_mtime_ns, info.st_ctime_ns, info.st_size)
            if not stat.S_ISREG(info.st_mode):
                return None, None, "is not a file"
            if info.st_size > MOST_BYTES:
                return seen, None, f"is larger than {MOST_BYTES:,} bytes"
            if seen == self._seen:
                return seen, None, ""
            try:
                return seen, file.read(), ""
            except OSError as error:
                return None, None, f"can't be read: {error.strerror}"

    def _take(self, seen: _Seen | None, document: bytes | None, problem: str) -> None:
        place = f"The file of keys {self._path}"
        if problem:
            self._keys.broken(place, problem)
            self._seen = self._seen and (0, 0, 0, 0)  # what comes next is new, whatever it looks like
        elif document is not None:
            self._seen = seen
            self._keys.take(document, place)


class _File:
    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> bytes:
        parts = []
        left = MOST_BYTES + 1
        while left > 0 and (part := os.read(self._descriptor, left)):
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def close(self) -> None:
        os.close(self._descriptor)
