"""What a hub lists of a revision, taken from its answer: each value has the form that hubs give it, or none is used."""

from dataclasses import dataclass
from typing import Annotated

import msgspec
from ams_common.hub_files import RemoteFile
from ams_common.outside import read_json

LARGEST_LISTING_BYTES = 16 << 20
LARGEST_FILE_BYTES = 1 << 60
_FileBytes = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_FILE_BYTES)]


@dataclass(frozen=True, slots=True)
class Listing:
    """What a revision is: its commit and all of its files; and its parameters, where the hub counted them."""

    commit: str
    files: tuple[RemoteFile, ...]
    parameters: int | None = None


class _Lfs(msgspec.Struct, frozen=True):
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    size: _FileBytes


class _Sibling(msgspec.Struct, frozen=True):
    rfilename: str
    size: _FileBytes | None = None
    blobId: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")] | None = None
    lfs: _Lfs | None = None

    def file(self) -> RemoteFile:
        if self.lfs is not None:
            return RemoteFile(self.rfilename, self.lfs.size, self.lfs.sha256, None)
        return RemoteFile(self.rfilename, self.size, None, self.blobId)


class _Tensors(msgspec.Struct, frozen=True):
    total: _FileBytes | None = None


class _Info(msgspec.Struct, frozen=True):
    """`/api/models/{repository}/revision/{revision}`; mirrors leave fields out."""

    sha: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{40}\Z")]
    siblings: list[_Sibling]
    safetensors: _Tensors | None = None


def read_listing(answer: bytes) -> Listing:
    """From `/api/models/…`. InvalidJson if it isn't what a hub answers."""
    info = read_json(answer, _Info, max_bytes=LARGEST_LISTING_BYTES)
    total = info.safetensors.total if info.safetensors is not None else None
    return Listing(info.sha, tuple(sibling.file() for sibling in info.siblings), total)
