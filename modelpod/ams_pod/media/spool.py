"""The encoded media of one request: in memory while they are small, in one temp file beyond."""

import contextlib
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import BinaryIO, Self, cast

from ams_pod.media.temp import TempFolder


@dataclass(frozen=True, slots=True)
class Upload:
    """One item as it was sent; `open` gives a reader of its own each time."""

    bytes: int
    open: Callable[[], BinaryIO]


class Spool:
    """A context: its uploads can be read inside it. Used by one thread at a time."""

    def __init__(self, folder: TempFolder, memory_bytes: int) -> None:
        self._folder = folder
        self._memory_left = memory_bytes
        self._stack = contextlib.ExitStack()
        self._descriptor = -1
        self._file_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give everything back; what is read afterwards fails."""
        self._descriptor = -1
        self._stack.close()

    def take(self, chunks: Iterable[bytes]) -> Upload:
        """Keep one item."""
        writer = self.writer()
        for chunk in chunks:
            writer.write(chunk)
        return writer.finish()

    def writer(self) -> "UploadWriter":
        """For an item that comes bit by bit; one at a time."""
        return UploadWriter(self)

    def reserve(self, size: int) -> bool:
        """Whether this much more may stay in memory."""
        if size > self._memory_left:
            return False
        self._memory_left -= size
        return True

    def append(self, data: bytes | bytearray) -> None:
        """Write to the end of the file."""
        if self._descriptor < 0:
            self._descriptor = self._stack.enter_context(self._folder.file())
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, self._file_bytes)
            self._file_bytes += written
            view = view[written:]

    @property
    def file_bytes(self) -> int:
        return self._file_bytes

    def read(self, offset: int, size: int) -> bytes:
        if self._descriptor < 0:
            raise ValueError("the upload is gone")
        return os.pread(self._descriptor, size, offset)


class UploadWriter:
    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._memory: bytearray | None = bytearray()
        self._start = spool.file_bytes

    def write(self, data: bytes) -> None:
        """OSError when the disk is full."""
        if self._memory is not None and self._spool.reserve(len(data)):
            self._memory += data
            return
        if self._memory is not None:
            self._spool.append(self._memory)
            self._memory = None
        self._spool.append(data)

    def finish(self) -> Upload:
        if self._memory is not None:
            data = bytes(self._memory)
            return Upload(len(data), lambda: io.BytesIO(data))
        spool, start, size = self._spool, self._start, self._spool.file_bytes - self._start
        return Upload(size, lambda: cast(BinaryIO, io.BufferedReader(_Part(spool, start, size), 256 << 10)))


class _Part(io.RawIOBase):
    """A part of the spool's file as a file of its own."""

    def __init__(self, spool: Spool, start: int, size: int) -> None:
        self._spool, self._start, self._size = spool, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._spool.read(self._start + self._at, min(len(buffer), max(0, self._size - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at
