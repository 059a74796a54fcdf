"""The temp folder: large uploads lie there while they are decoded.

A file is locked (flock) as long as somebody uses it. So what a dead process left is known as such by any other one,
also in another container on the same folder, where process ids say nothing.
"""

import contextlib
import fcntl
import os
import platform
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OURS = re.compile(r"ams-(?P<pid>\d+)-[0-9a-f]{12}")
_UNLOCKED = ".ams-new-"  # a name that nobody tidies, until the file is locked


@dataclass(frozen=True, slots=True)
class TempFile:
    """One file of ours. `modified` is Unix time."""

    path: Path
    bytes: int
    modified: float


class TempFolder:
    """`folder` is made when it is first needed; empty means a folder of the system's."""

    def __init__(self, folder: str) -> None:
        self.path = Path(folder or tempfile.gettempdir())

    @contextlib.contextmanager
    def file(self) -> Iterator[int]:
        """The descriptor of a new file, readable and writable, that is gone when the block ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        name = f"ams-{os.getpid()}-{secrets.token_hex(6)}"
        new, path = self.path / (_UNLOCKED + name), self.path / name
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(new, path)
            yield descriptor
        finally:
            for left in (new, path):
                left.unlink(missing_ok=True)
            os.close(descriptor)

    def files(self) -> list[TempFile]:
        """Our files, oldest first, those of other processes on this folder too."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                if not _OURS.fullmatch(entry.name):
                    continue
                with contextlib.suppress(OSError):  # it went away meanwhile
                    status = entry.stat(follow_symlinks=False)
                    found.append(TempFile(Path(entry.path), status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.modified)

    def clean(self, older_than_seconds: float = 0.0) -> list[TempFile]:
        """Remove our files that nobody uses: those of this age, and those of dead processes whatever their age."""
        now = time.time()
        return [
            file
            for file in self.files()
            if (now - file.modified >= older_than_seconds or not _lives(file.path.name)) and _remove_unused(file.path)
        ]

    def identity(self) -> str:
        """The same for two pods exactly if they look at the same folder."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{_machine()}:{status.st_dev}:{status.st_ino}"


def _remove_unused(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    except OSError:  # somebody uses it, or it is another user's
        return False
    finally:
        os.close(descriptor)
    return True


def _lives(name: str) -> bool:
    match = _OURS.fullmatch(name)
    try:
        os.kill(int(match["pid"]) if match else 0, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _machine() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
