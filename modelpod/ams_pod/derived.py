"""Files that a pod makes of a model's for its next start: where they lie, what they belong to, how they are written.

They lie beside the weights, so that they go when the weights go. Nothing depends on them: what can't be written isn't
kept, and what can't be read, or belongs to other files, is made again.
"""

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

log = logging.getLogger(__name__)

NAME = "derived"
KEPT = 4  # files of one kind: for other settings, or of other versions of the program
_STALE_SECONDS = 60.0  # an unfinished file that old, which nobody holds, was left by a process that ended


def derived_folder(models_dir: Path, folder: Path) -> Path | None:
    """Where files made of those in `folder` lie: in it, or in the models folder if it is somebody else's.

    None where there is no models folder.
    """
    models_dir, folder = models_dir.absolute(), folder.absolute()
    if folder != models_dir and folder.is_relative_to(models_dir):
        return folder / NAME
    if not models_dir.is_dir():
        return None
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return models_dir / "files" / f"{folder.name or 'root'}-{digest}" / NAME


def given_files(folder: Path) -> list[Path]:
    """The files in a folder, sorted, without those that were made of them: these come and go while it is looked at."""
    return sorted(path for path in folder.rglob("*") if NAME not in path.relative_to(folder).parts and path.is_file())


def identity_of(folder: Path, also: Sequence[str | int]) -> str:
    """32 hex digits that change with the weights and the configuration of a folder, and with what is in `also`.

    Files are told by name, size and time of their last change, as verified ones are. OSError if they can't be listed.
    """
    paths = sorted(path for pattern in ("*.safetensors", "*.json") for path in folder.glob(pattern))
    files = [(path.name, status.st_size, status.st_mtime_ns) for path in paths for status in (path.stat(),)]
    return hashlib.sha256(msgspec.json.encode([files, list(also)])).hexdigest()[:32]


def read_derived(path: Path, most_bytes: int) -> bytes | None:
    """A file of at most `most_bytes`; None if there is none, or anything but such a file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > most_bytes:
                return None
            return file.read(most_bytes)
    except OSError:
        return None


def write_derived(path: Path, write: Callable[[BinaryIO], object], *, keep: int = KEPT) -> bool:
    """Have `write` make the file, which is there whole or not at all; whether it is.

    Several processes may write the same one at once; the last stays. Others of its kind, which is the name in front of
    the first dash, are removed but for the newest, of which there are `keep` with this one; so is what processes left
    that ended while they wrote.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _tidy(path, keep)
        with open(os.open(scratch, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "wb") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # while it is held, somebody writes
            write(file)
            file.flush()
            os.replace(scratch, path)
    except OSError as error:
        log.info("%s isn't kept for the next start: %s", path.name, error.strerror or error)
        with contextlib.suppress(OSError):
            scratch.unlink()
        return False
    return True


def is_being_written(path: Path) -> bool:
    """Whether some process of this machine writes it now."""
    try:
        return any(_is_held(each) for each in path.parent.glob(f".{path.name}.*"))
    except OSError:
        return False


def forget_derived(path: Path) -> None:
    """Remove a file that was of no use."""
    with contextlib.suppress(OSError):
        path.unlink()


def remove_all_derived(models_dir: Path) -> int:
    """Remove what was made of any model in the models folder, where room is needed for weights. Bytes that were freed.

    Pods that have such a file open keep it until they end.
    """
    freed = 0
    for folder in models_dir.rglob(NAME):
        if folder.is_symlink() or not folder.is_dir():
            continue
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                size = path.lstat().st_size
                path.unlink()
                freed += size
    return freed


def _tidy(path: Path, keep: int) -> None:
    kind = path.name.partition("-")[0]
    now = time.time()
    others: list[tuple[float, Path]] = []
    for each in path.parent.iterdir():
        with contextlib.suppress(OSError):
            changed = each.lstat().st_mtime
            if each.name.startswith(f".{kind}-"):
                if changed < now - _STALE_SECONDS and not _is_held(each):
                    each.unlink()
            elif each.name.startswith(f"{kind}-") and each != path:
                others.append((changed, each))
    for _, each in sorted(others, reverse=True)[max(0, keep - 1) :]:
        with contextlib.suppress(OSError):
            each.unlink()


def _is_held(path: Path) -> bool:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
