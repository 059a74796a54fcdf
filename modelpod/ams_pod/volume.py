"""How full the volume with the weights is."""

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class VolumeSpace:
    """Bytes. `free` is what this user may still write."""

    size: int
    free: int


def space_of(folder: str) -> VolumeSpace | None:
    """Of the file system that holds `folder`; None where that can't be told."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return VolumeSpace(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize)
