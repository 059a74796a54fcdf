"""Bring the weights into the page cache while libraries are imported. No torch here: that import is what it hides."""

import contextlib
import os
import threading
from io import FileIO
from pathlib import Path

_READ_BLOCK = 8 << 20


def read_ahead(folder: Path, packed: Path | None = None) -> threading.Thread:
    """Read the folder's weights once, in a thread: a cold load waits for reading most.

    `packed` is where they may lie as they are computed with: then those, as the others are hardly needed.
    """

    def read() -> None:
        found = sorted(packed.glob("tiles-*")) if packed is not None else []
        for path in found or sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
                _read(file)

    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    return thread


def _read(file: FileIO) -> None:
    """Without a copy where the system takes such advice: what is in the cache already then costs next to nothing."""
    if hasattr(os, "posix_fadvise"):
        for start in range(0, os.fstat(file.fileno()).st_size, _READ_BLOCK):
            os.posix_fadvise(file.fileno(), start, _READ_BLOCK, os.POSIX_FADV_WILLNEED)
        return
    block = bytearray(_READ_BLOCK)
    while file.readinto(block):
        pass
