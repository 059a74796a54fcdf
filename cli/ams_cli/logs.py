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
        with contextlib.suppress(OSError):  # there is none yet, or the folder takes no changes
            newer.replace(older)


class LogFile:
    """A file that is written at once. Its faults, such as a full disk, stop nothing and are reported once."""

    def __init__(self, path: Path) -> None:
        self.on_fault: Callable[[str], object] | None = None
        self._path = path
        self._file: BinaryIO | None = None
        self._fault = ""
        rotate(path)
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            self._fault = str(error.strerror or error)

    def write(self, lines: bytes) -> None:
        if self._file is not None:
            try:
                self._file.write(lines)
            except OSError as error:
                self._fault = str(error.strerror or error)
        if self._fault and self.on_fault is not None:
            report, self.on_fault = self.on_fault, None
            report(f"{self._path} can't be written ({self._fault}): lines of the logs are lost until that is mended")

    def close(self) -> None:
        if self._file is not None:
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
