"""An engine's log: what it tells of phases while the engine loads, and its last line that says what went wrong."""

import os
import re
from collections.abc import Sequence

from ams_common.lifecycle import Phase

MOST_BYTES = 16 << 20
_TAIL_BYTES = 16 << 10
_READ_BYTES = 1 << 20
_TELLING = re.compile(r"\berror\b|exception|failed|cannot|can't|unable|not found|out of memory|invalid|unknown", re.I)
_FRAME = re.compile(r'^\s*(File "|\^+|~)|^Traceback')
_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class LogFile:
    """A file that somebody else appends to. It is emptied when it has grown large: who writes appends."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._at = self._size()

    def _size(self) -> int:
        try:
            return os.stat(self.path).st_size
        except OSError:
            return 0

    def news(self) -> list[str]:
        """Lines that came since the last call."""
        if not self.path:
            return []
        size = self._size()
        if size < self._at:
            self._at = 0
        if size == self._at:
            return []
        try:
            with open(self.path, "rb") as file:
                file.seek(max(self._at, size - _READ_BYTES))
                data = file.read(_READ_BYTES)
        except OSError:
            return []
        self._at = size
        if size > MOST_BYTES:
            self._empty()
        return _lines(data)

    def tail(self) -> list[str]:
        """Its last lines."""
        if not self.path:
            return []
        try:
            with open(self.path, "rb") as file:
                file.seek(max(0, self._size() - _TAIL_BYTES))
                return _lines(file.read(_TAIL_BYTES))
        except OSError:
            return []

    def _empty(self) -> None:
        try:
            os.truncate(self.path, 0)
            self._at = 0
        except OSError:
            pass


def phase_of(
    lines: Sequence[str], patterns: Sequence[tuple[re.Pattern[str], Phase]]
) -> tuple[Phase, float | None] | None:
    """The last phase that these lines tell, and its percentage."""
    for line in reversed(lines):
        for pattern, phase in patterns:
            if (found := pattern.search(line)) is not None:
                percent = float(found[1]) if found.groups() and found[1] else None
                return phase, percent
    return None


def telling_line(lines: Sequence[str]) -> str:
    """The last one that says what went wrong, else the last there is; empty where there is none."""
    kept = [line.strip() for line in lines if line.strip() and not _FRAME.search(line)]
    telling = [line for line in kept if _TELLING.search(line)]
    found = (telling or kept or [""])[-1]
    return found[:500]


def _lines(data: bytes) -> list[str]:
    text = _COLOURS.sub("", data.decode("utf-8", "replace"))
    return [line for line in re.split(r"[\r\n]+", text) if line]
