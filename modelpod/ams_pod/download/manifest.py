"""What a finished folder holds: manifest.json, and its check by size and time or by hashing again."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from ams_common.hub_files import MANIFEST, is_inside
from ams_common.outside import InvalidJson, read_json

# Raised when GGUF files are converted to something else than before.
CONVERSION = 2
# Folders with less are converted again: what they hold isn't right.
LEAST_CONVERSION = 1
_READ_BYTES = 1 << 20


class FileEntry(msgspec.Struct, frozen=True):
    """A verified file: sha256 in hexadecimal, size in bytes, time of last change in nanoseconds."""

    sha256: str
    size: int
    mtime_ns: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of manifest.json. `inputs` are files (to sha256) that were converted and not kept.

    `conversion`: the `CONVERSION` that made the files; 0 for files that weren't converted, or by the first versions.
    """

    version: int = 1
    source: str
    revision: str
    files: dict[str, FileEntry]
    inputs: dict[str, str] = {}
    conversion: int = 0

    def digests(self) -> dict[str, str | None]:
        """sha256 per file as the source names them: a lock pins what was fetched, not what was made of it."""
        return dict(self.inputs) if self.inputs else {path: entry.sha256 for path, entry in self.files.items()}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished folder; None if there is none that can be read."""
    try:
        manifest = read_json((folder / MANIFEST).read_bytes(), Manifest)
    except (OSError, InvalidJson):
        return None
    return manifest if all(map(is_inside, manifest.files)) else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write manifest.json in one step. OSError as the file system says."""
    scratch = folder / f".{MANIFEST}.{os.getpid()}"
    with open(scratch, "wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, folder / MANIFEST)


def entry_of(path: Path, sha256: str) -> FileEntry:
    stat = path.stat()
    return FileEntry(sha256, stat.st_size, stat.st_mtime_ns)


def is_unchanged(path: Path, entry: FileEntry) -> bool:
    """Whether size and time are those of the verified file."""
    try:
        stat = path.stat()
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns)


def hash_file(path: Path, read: Callable[[int], None] = lambda count: None) -> str:
    """The file's sha256; `read` gets the number of bytes of each piece."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
            read(len(piece))
    return digest.hexdigest()


def verify(
    folder: Path, manifest: Manifest, *, full: bool, read: Callable[[int], None] = lambda count: None
) -> tuple[Manifest, list[str]]:
    """Check the files of a folder: (the manifest as it is now, its damaged files).

    A file whose time changed while its size did not (a restored backup) is hashed; if it is intact, the manifest takes
    the new time. `full` hashes every file.
    """
    files, damaged = {}, []
    for path, entry in manifest.files.items():
        target = folder / path
        if is_unchanged(target, entry) and not full:
            files[path] = entry
            continue
        try:
            intact = target.stat().st_size == entry.size and hash_file(target, read) == entry.sha256
        except OSError:
            intact = False
        if intact:
            files[path] = entry_of(target, entry.sha256)
        else:
            files[path] = entry
            damaged.append(path)
    return msgspec.structs.replace(manifest, files=files), damaged
