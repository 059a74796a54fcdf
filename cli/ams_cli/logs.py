"""Log files: turned over when `ams up` starts, and Python's logging sent to the screen and to one of them."""

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_KEPT = 3


def rotate(path: Path) -> None:
    """Make room for a new file: x.log becomes x.log.1, and so on up to x.log.3."""
    for number in range(_KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)


class LogFile:
    """A file that is written at once, and whose faults (a full disk) stop nothing."""

    def __init__(self, path: Path) -> None:
        rotate(path)
        self._file: BinaryIO = path.open("ab", buffering=0)

    def write(self, lines: bytes) -> None:
        with contextlib.suppress(OSError):
            self._file.write(lines)

    def close(self) -> None:
        self._file.close()


class LineHandler(logging.Handler):
    """Hands each record as a line to a function."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write
        self.setFormatter(_Formatter())

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """`12:00:01 warning: …`, and without the word for what is no warning."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        word = "" if record.levelno <= logging.INFO else f"{record.levelname.lower()}: "
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {word}{record.message}"
