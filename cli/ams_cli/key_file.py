"""The file of API keys: read whole, changed under a lock, replaced at once or not at all."""

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ams_common.keys import MOST_BYTES, InvalidKeys, KeyFile, read_keys, write_keys

_LOCK_SECONDS = 10.0
_LOCK_LOOK_SECONDS = 0.05


class StoreError(Exception):
    """Keys can't be read or written where they are kept; the message is a sentence."""


class FileStore:
    """Keys in the file at `path`, made with its folder at the first change; only its owner may read it."""

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

    async def read(self) -> KeyFile | None:
        """None where there is no file. StoreError."""
        try:
            return _read(self._path)
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror or error}") from None

    async def change(self, make: Callable[[KeyFile], KeyFile]) -> KeyFile:
        """What it was and what `make` makes of it, which is then the file's content. StoreError."""
        return await asyncio.to_thread(self._change, make)

    def _change(self, make: Callable[[KeyFile], KeyFile]) -> KeyFile:
        try:
            path = self._path.resolve()  # a link stays, and what it points to is replaced
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _locked(path.parent):
                before = _read(path)
                after = make(before or KeyFile())
                if after != before:
                    _replace(path, write_keys(after))
                return after
        except OSError as error:
            raise StoreError(f"{self._path}: {error.strerror or error}") from None
        except RuntimeError:  # links that lead in a circle
            raise StoreError(f"{self._path}: {os.strerror(errno.ELOOP)}") from None


def write_secret(path: Path, text: str) -> None:
    """A file that only its owner may read, unless there is one that others may. StoreError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(path, f"{text}\n".encode())
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None


def _read(path: Path) -> KeyFile | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise StoreError(f"{path} is no file")
        data = file.read(MOST_BYTES + 1)
    try:
        return read_keys(data)
    except InvalidKeys as error:
        raise StoreError(f"{path} {error}; it is left as it is") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time. The folder is what is locked: the file itself is another one after each change."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(f"{folder} is locked by another program for {_LOCK_SECONDS:g} s") from None
                time.sleep(_LOCK_LOOK_SECONDS)
        yield
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    """Owner and mode stay, or it isn't replaced: whoever reads it has to be able to go on."""
    try:
        before: os.stat_result | None = path.stat()
    except FileNotFoundError:
        before = None
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)  # mode 0600
    try:
        with open(descriptor, "wb") as file:
            if before is not None:
                made = os.fstat(descriptor)
                if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                    try:
                        os.fchown(descriptor, before.st_uid, before.st_gid)
                    except PermissionError:
                        raise StoreError(f"{path} belongs to another user or group; change it as that one") from None
                os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.rename(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
