"""Models of the fake hub: contents, commits, branches, who may read them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

LFS_SUFFIXES = (".safetensors", ".bin", ".gguf", ".pt", ".h5", ".msgpack", ".onnx", ".model")
LFS_BYTES = 1 << 20
PIECE_BYTES = 1 << 18


class Content(Protocol):
    """The bytes of a file, wherever they come from."""

    @property
    def size(self) -> int: ...
    def read(self, start: int, stop: int) -> bytes: ...


@dataclass(frozen=True)
class Bytes:
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


@dataclass(frozen=True)
class OnDisk:
    path: Path

    @cached_property
    def size(self) -> int:
        return self.path.stat().st_size

    def read(self, start: int, stop: int) -> bytes:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), stop - start, start)


@dataclass(frozen=True)
class Zeros:
    """A file as large as wanted that nobody stores."""

    size: int

    def read(self, start: int, stop: int) -> bytes:
        return bytes(max(0, min(stop, self.size) - start))


@dataclass(frozen=True)
class File:
    """A file of a commit. `claimed` is the size that listings tell, where it shall differ from the real one."""

    path: str
    content: Content
    claimed: int | None = None

    @property
    def size(self) -> int:
        return self.content.size if self.claimed is None else self.claimed

    @property
    def is_lfs(self) -> bool:
        return self.path.endswith(LFS_SUFFIXES) or self.size > LFS_BYTES

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """git's name for the blob; for LFS the blob is the pointer file."""
        if self.is_lfs:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
            return hashlib.sha1(b"blob %d\0" % len(pointer) + pointer.encode()).hexdigest()
        digest = hashlib.sha1(b"blob %d\0" % self.content.size)
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def _pieces(self) -> Iterator[bytes]:
        for start in range(0, self.content.size, PIECE_BYTES):
            yield self.content.read(start, start + PIECE_BYTES)


Files = Mapping[str, bytes | Path | Content]


@dataclass
class Repository:
    """A model: its commits (commit → path → file), what branches and tags mean, and who may read it."""

    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, File]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Files, *revisions: str) -> str:
        """Add a commit and let the revisions (default `main`) mean it; its name."""
        made = {path: File(path, _content(value)) for path, value in files.items()}
        return self.commit_files(made, *revisions)

    def commit_files(self, files: Mapping[str, File], *revisions: str) -> str:
        digest = hashlib.sha1(self.name.encode())
        for path in sorted(files):
            digest.update(f"{path} {files[path].blob_id}\n".encode())
        name = digest.hexdigest()
        self.commits[name] = dict(files)
        for revision in revisions or ("main",):
            self.revisions[revision] = name
        return name

    def resolve(self, revision: str) -> str | None:
        """The commit that a branch, tag, pull request or commit name means."""
        return self.revisions.get(revision) or (revision if revision in self.commits else None)


def from_folder(name: str, folder: Path) -> Repository:
    """A model out of a folder of files."""
    repository = Repository(name)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    repository.commit(files)
    return repository


def _content(value: bytes | Path | Content) -> Content:
    if isinstance(value, bytes):
        return Bytes(value)
    return OnDisk(value) if isinstance(value, Path) else value
