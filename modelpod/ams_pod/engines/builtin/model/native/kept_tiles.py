"""Weights in the kernels' tiles as a file: written once beside the weights, and mapped by later loads.

Who maps it reads no other weights of the layers and packs nothing, and all pods of a machine share its pages. It is a
header of 4 KiB, JSON filled up with blanks, and behind it the tiles as they lie in memory.

What is mapped is compared with the model's own forward pass like any other weights, at each load. That all of it is
what was written, its sha256 tells, which is computed once since the machine started, in the background.
"""

import contextlib
import hashlib
import logging
import mmap
import os
import stat
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec
import torch
from ams_common.outside import InvalidJson, read_json
from torch import Tensor

from ams_pod.derived import derived_folder, forget_derived, identity_of, is_being_written, read_derived, write_derived
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.port import LoadFailed
from ams_pod.volume import space_of

log = logging.getLogger(__name__)

KIND = "tiles"
_LAYOUT = 1  # of tiles, their order, and the file
_HEADER_BYTES = 4096
_ELEMENT_BYTES = 2
_PIECE_BYTES = 16 << 20
_LEAST_FREE_BYTES, _MOST_FREE_BYTES = 1 << 30, 10 << 30
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class _Header(msgspec.Struct, frozen=True):
    elements: int
    sha256: str
    layout: int = _LAYOUT


class KeptTiles:
    """Of one model, for one load of it: either `map` finds them, or `take` gets what was packed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.maps = True
        self._packed: Tensor | None = None
        self._mapped: tuple[memoryview, _Header, str] | None = None

    @classmethod
    def of(cls, request: LoadRequest, placement: Placement) -> "KeptTiles | None":
        """None for weights that aren't packed, and for a folder that isn't ours to keep so much in."""
        models_dir, folder = Path(request.settings.models_dir).absolute(), request.folder.absolute()
        if placement.device != "cpu" or placement.dtype != torch.bfloat16 or placement.quantization != "none":
            return None
        if folder == models_dir or not folder.is_relative_to(models_dir):
            return None
        try:
            key = identity_of(folder, [KIND, _LAYOUT])
        except OSError:
            return None
        place = derived_folder(models_dir, folder)
        return None if place is None else cls(place / f"{KIND}-{key}.bin")

    def map(self, elements: int) -> Tensor | None:
        """So many elements in tiles; None if there is no such file, or what was found before isn't to be trusted."""
        if not self.maps or not elements:
            return None
        try:
            with _opened(self.path) as file:
                return self._map(file, elements)
        except (OSError, ValueError, InvalidJson) as error:
            log.debug("%s isn't mapped: %s", self.path.name, error)
            return None

    def _map(self, file: BinaryIO, elements: int) -> Tensor:
        status = os.fstat(file.fileno())
        size = elements * _ELEMENT_BYTES
        if not stat.S_ISREG(status.st_mode) or status.st_size != _HEADER_BYTES + size:
            raise ValueError("it isn't as large as the weights")
        header = read_json(file.read(_HEADER_BYTES).rstrip(b" "), _Header)
        if (header.elements, header.layout) != (elements, _LAYOUT):
            raise ValueError("it holds other weights")
        pages = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[_HEADER_BYTES:]
        self._mapped = pages, header, f"{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it can't be written, which nobody does
            return torch.frombuffer(pages, dtype=torch.bfloat16)

    def take(self, memory: Tensor) -> None:
        """What was packed, as there was nothing to map."""
        self._packed = memory

    def release(self) -> None:
        """What was packed isn't to be kept, and may be given back."""
        self._packed = None

    def forget(self) -> None:
        """What is there was of no use: it is removed, and not mapped again by this load."""
        forget_derived(self.path)
        self.maps, self._mapped = False, None

    def settle(self, fail: Callable[[Exception], None]) -> None:
        """In the background: write what was packed, or check what was mapped; `fail` gets what is wrong with it."""
        if self._mapped is not None:
            _in_background(lambda: self.check(fail))
        elif self._packed is not None and len(self._packed) and not is_being_written(self.path):
            packed, self._packed = self._packed, None
            _in_background(lambda: self.write(packed))

    def write(self, packed: Tensor) -> bool:
        """Whether the file is there now: not where too little room would be left."""
        content = memoryview(packed.view(torch.uint8).numpy())
        header = _Header(len(content) // _ELEMENT_BYTES, _hash(content))
        if self._header() == header:
            return True  # by an earlier version of the program
        if not has_room(self.path.parent.parent, len(content)):
            log.info("packed weights aren't kept for the next start: it would leave too little room on the volume")
            return False

        def write(file: BinaryIO) -> None:
            file.write(msgspec.json.encode(header).ljust(_HEADER_BYTES))
            for start in range(0, len(content), _PIECE_BYTES):
                file.write(content[start : start + _PIECE_BYTES])

        return write_derived(self.path, write, keep=1)

    def _header(self) -> _Header | None:
        """Of the file that is there; None if it is no such file, or isn't as large as its header says."""
        with contextlib.suppress(OSError, InvalidJson), _opened(self.path) as file:
            header = read_json(file.read(_HEADER_BYTES).rstrip(b" "), _Header)
            if os.fstat(file.fileno()).st_size == _HEADER_BYTES + header.elements * _ELEMENT_BYTES:
                return header
        return None

    def check(self, fail: Callable[[Exception], None]) -> None:
        """All that is mapped, by its sha256, unless that was done since the machine started."""
        assert self._mapped is not None
        pages, header, identity = self._mapped
        mark = self.path.with_name(f"checked-{self.path.stem}")
        told = f"{_boot()} {identity} {header.sha256}".encode()
        if _boot() and read_derived(mark, len(told) + 1) == told:
            return
        if _hash(pages) == header.sha256:
            write_derived(mark, lambda file: file.write(told))
            return
        forget_derived(self.path)
        fail(LoadFailed(f"{self.path} was damaged and has been removed: the next start packs the weights again"))


def has_room(folder: Path, size: int) -> bool:
    """Whether so many bytes leave a tenth of the volume free, which is taken for 1 GiB at least and 10 at most."""
    space = space_of(str(folder))
    if space is None:
        return False
    return space.free - size >= min(max(_LEAST_FREE_BYTES, space.size // 10), _MOST_FREE_BYTES)


def _opened(path: Path) -> BinaryIO:
    """OSError for a link, too."""
    return open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _hash(content: memoryview) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(content), _PIECE_BYTES):
        digest.update(content[start : start + _PIECE_BYTES])
    return digest.hexdigest()


def _boot() -> str:
    """Of this start of the machine; empty where the system doesn't tell."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _in_background(work: Callable[[], object]) -> None:
    """In a thread that yields to all others."""

    def run() -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
        try:
            work()
        except Exception:
            log.exception("packed weights were neither kept nor checked")

    threading.Thread(target=run, name="tiles", daemon=True).start()
