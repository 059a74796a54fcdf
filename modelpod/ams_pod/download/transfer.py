"""Bytes into the partial folder: resumed, retried, hashed while they arrive, several files at a time."""

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import BinaryIO

from ams_common.hub_files import RemoteFile
from ams_common.reasons import Reason

from ams_pod.download.backoff import next_delay
from ams_pod.download.failures import Failed, Interrupted
from ams_pod.download.lease import FolderLease
from ams_pod.download.manifest import hash_file
from ams_pod.download.partial import Partial, part_of
from ams_pod.download.progress import Tracker

_READ_BYTES = 1 << 20
_SLOWEST_SECONDS = 10.0  # for as many bytes, at least, even without patience
_PROGRESS_BYTES = 1 << 16  # a connection that delivers less before it breaks counts as having delivered nothing


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of a file from `start` on, which is the asked offset, or 0 where that isn't possible."""

    start: int
    pieces: Iterator[bytes]


# Opens a file at an offset. Raises Interrupted for what may pass, Failed for what won't, also while pieces are read.
Opener = Callable[[RemoteFile, int], AbstractContextManager[Body]]


class Stopped(Exception):
    """Another thread of this transfer failed, or it is to stop."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How files are fetched into `partial`. `patience` is the longest time without a byte, in seconds."""

    opener: Opener
    partial: Partial
    lease: FolderLease
    tracker: Tracker
    patience: float
    workers: int = 4
    input: bool = False  # into the folder of what is converted

    def fetch(self, files: Sequence[RemoteFile]) -> None:
        """Fetch and verify all files. Failed, FolderLeaseLost or OSError of the first that can't be."""
        waiting: SimpleQueue[RemoteFile] = SimpleQueue()
        for file in files:
            if self.partial.verified(file.path, input=self.input) is None:
                waiting.put(file)
        stop = threading.Event()
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while not stop.is_set():
                    self._fetch(waiting.get_nowait(), stop)
            except (Empty, Stopped):
                pass
            except BaseException as error:  # raised in the thread that waits
                errors.append(error)
                stop.set()

        # Daemons: one that hangs in a dead connection must not keep a failed process.
        threads = [
            threading.Thread(target=work, name=f"transfer-{number}", daemon=True)
            for number in range(min(self.workers, waiting.qsize()))
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive() and not errors:
                    thread.join(0.1)
        finally:
            stop.set()
        if errors:
            for thread in threads:
                thread.join(1.0)
            raise errors[0]

    def _fetch(self, file: RemoteFile, stop: threading.Event) -> None:
        target = self.partial.place(file.path, input=self.input)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.tracker.file(file.path, file.size)
        if (sha256 := self._in_place(file, target)) is None:
            sha256 = self._receive(file, part_of(target), stop)
            if sha256 is None:  # resumed bytes may have been damaged: once more, all of it
                sha256 = self._receive(file, part_of(target), stop)
            if sha256 is None:
                raise Failed(
                    Reason.CHECKSUM_MISMATCH,
                    f"{file.path} arrived twice with other bytes than the source says it has (sha256 or size);"
                    " a mirror or proxy in between may change it.",
                )
            self.lease.check()
            os.replace(part_of(target), target)
        self.partial.record({file.path: sha256}, input=self.input)
        self.tracker.file_done(file.path)

    def _in_place(self, file: RemoteFile, target: Path) -> str | None:
        """The sha256 of an intact file that the journal doesn't list; else None, and no file."""
        try:
            size = target.stat().st_size
        except FileNotFoundError:
            return None
        if size == file.size and file.sha256 is not None and hash_file(target) == file.sha256:
            return file.sha256
        self.lease.check()
        target.unlink()
        self.tracker.add(-size)
        return None

    def _receive(self, file: RemoteFile, part: Path, stop: threading.Event) -> str | None:
        """The sha256 of the file, now completely in `part`; None (and no part) if it doesn't match."""
        with open(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as out:
            digest = _Digest(file)
            self.tracker.add(-digest.resume(out))
            self._fill(file, out, digest, stop)
            out.flush()
            os.fsync(out.fileno())
        if digest.checksum_ok():
            return digest.sha256
        self.tracker.add(-digest.count)
        self.lease.check()
        part.unlink()
        return None

    def _fill(self, file: RemoteFile, out: BinaryIO, digest: "_Digest", stop: threading.Event) -> None:
        best, attempt, since = digest.count, 0, time.monotonic()
        while not digest.is_full():
            try:
                self._stream(file, out, digest, stop)
                if file.size is None:
                    return
                if not digest.is_full():
                    raise Interrupted(
                        Failed(Reason.HUB_UNREACHABLE, f"{file.path} ends too early each time.", retryable=True)
                    )
            except Interrupted as interruption:
                if digest.count >= best + _PROGRESS_BYTES:
                    best, attempt, since = digest.count, 0, time.monotonic()
                attempt += 1
                idle = time.monotonic() - since
                delay = next_delay(attempt, idle, self.patience, interruption.retry_after, random.random())
                if delay is None:
                    raise interruption.failed from None
                if stop.wait(delay):
                    raise Stopped from None

    def _stream(self, file: RemoteFile, out: BinaryIO, digest: "_Digest", stop: threading.Event) -> None:
        with self.opener(file, digest.count) as body:
            if body.start != digest.count:
                self._restart(out, digest)
            mark, marked_at = digest.count, time.monotonic()
            for piece in body.pieces:
                if stop.is_set():
                    raise Stopped
                self.lease.hold()
                if not digest.update(piece):
                    return
                out.write(piece)
                self.tracker.add(len(piece), received=True)
                if digest.count - mark >= _PROGRESS_BYTES:
                    mark, marked_at = digest.count, time.monotonic()
                elif time.monotonic() - marked_at > max(self.patience, _SLOWEST_SECONDS) and not digest.is_full():
                    text = f"{file.path} comes a few bytes at a time."
                    raise Interrupted(Failed(Reason.HUB_UNREACHABLE, text, retryable=True))

    def _restart(self, out: BinaryIO, digest: "_Digest") -> None:
        self.lease.check()
        out.seek(0)
        out.truncate()
        self.tracker.add(-digest.count)
        digest.reset()


class _Digest:
    """sha256 of the bytes so far, and git's blob hash where that is what the hub knows of the file."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self.reset()

    def reset(self) -> None:
        self._sha256 = hashlib.sha256()
        self._blob = None
        if self._file.sha256 is None and self._file.blob_id is not None and self._file.size is not None:
            self._blob = hashlib.sha1(b"blob %d\0" % self._file.size, usedforsecurity=False)
        self.count = 0
        self._too_long = False

    def resume(self, out: BinaryIO) -> int:
        """Take in what an earlier process left; returns the bytes thrown away, as they can't be a part of the file."""
        left = os.fstat(out.fileno()).st_size
        if self._file.size is None or left > self._file.size:
            out.truncate(0)
            return left
        while piece := out.read(_READ_BYTES):
            self.update(piece)
        return 0

    def update(self, piece: bytes) -> bool:
        """Take in the next bytes; False, and nothing taken, if the file is longer than it may be."""
        if self._file.size is not None and self.count + len(piece) > self._file.size:
            self._too_long = True
            return False
        self.count += len(piece)
        self._sha256.update(piece)
        if self._blob is not None:
            self._blob.update(piece)
        return True

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def is_full(self) -> bool:
        return self._too_long or (self._file.size is not None and self.count == self._file.size)

    def checksum_ok(self) -> bool:
        if self._too_long:
            return False
        if self._file.sha256 is not None:
            return self.sha256 == self._file.sha256
        return self._blob is None or self._blob.hexdigest() == self._file.blob_id
