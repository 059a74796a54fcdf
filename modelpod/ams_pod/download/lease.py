"""One downloader per folder, also on a shared network volume: a lease kept alive by a heartbeat.

flock is not reliable on network file systems, and clocks of two nodes differ. So the lease is a file whose content
changes with each beat; who waits sees with its own clock whether it still changes. Leases are numbered. A dead or
released one is followed by creating the next number exclusively (O_EXCL, atomic on NFS too), which one waiter wins;
no lease is ever taken away by deleting and creating the same name, so two waiters can't both believe they won.
The highest number owns. Who finds its own file gone or overtaken has lost and must stop writing.
"""

import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress

BEAT_SECONDS = 1.0
STALE_SECONDS = 10.0


class FolderLeaseLost(Exception):
    """Another process took over, because this one gave no sign of life for too long."""


class _Beat(msgspec.Struct, omit_defaults=True):
    """The content of a lease file. `process` tells whether the owner is a process of this machine (see below)."""

    owner: str
    process: str
    beat: int = 0
    released: bool = False
    progress: Progress | None = None


class FolderLease:
    """The right to write one folder. Use as a context manager; `check` before each step that can't be undone."""

    def __init__(self, path: Path, beat: _Beat, report: Callable[[], Progress | None]) -> None:
        self._path = path
        self._beat = beat
        self._report = report
        self._sure = time.monotonic()  # when it was last known to be ours
        self._lost = False
        self._guard = threading.Lock()  # a reader must not meet half a beat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()

    def hold(self) -> None:
        """Raise FolderLeaseLost if the lease may have been lost; cheap enough to call for each piece of a transfer."""
        if self._lost or time.monotonic() - self._sure > STALE_SECONDS / 2:
            self.check()  # the process was frozen, or the volume hangs

    def check(self) -> None:
        """Raise FolderLeaseLost unless this process is the owner at this moment."""
        with self._guard:
            current = _parse(_content(self._path))
        if self._lost or current is None or current.owner != self._beat.owner or _next_exists(self._path):
            self._lost = True
            raise FolderLeaseLost
        self._sure = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self.check()
            self._beat.released = True
            self._write()
        except (FolderLeaseLost, OSError):
            pass  # the next owner finds it stale

    def _keep(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.check()
                self._beat.beat += 1
                self._beat.progress = self._report()
                self._write()
            except FolderLeaseLost:
                return
            except OSError:
                continue  # the volume hangs; `hold` looks again when it lasts

    def _write(self) -> None:
        # In place, without O_CREAT: a file that a successor removed must not come back.
        handle = os.open(self._path, os.O_WRONLY)
        try:
            content = msgspec.json.encode(self._beat)
            with self._guard:
                os.pwrite(handle, content, 0)
                os.ftruncate(handle, len(content))
        finally:
            os.close(handle)


class Contender:
    """A process that wants the lease of `folder`; call `attempt` now and then until it answers with one."""

    def __init__(self, folder: Path, report: Callable[[], Progress | None] = lambda: None) -> None:
        self._folder = folder
        self._report = report
        self._owner = uuid.uuid4().hex
        self._floor = 0  # a number that exists even if a cached listing doesn't show it
        self._seen: tuple[int, bytes] | None = None
        self._since = 0.0

    def attempt(self, now: float) -> FolderLease | Progress | None:
        """The lease, or the progress of the process that holds it (None if unknown). `now` is monotonic seconds.

        OSError if the folder above can't be written.
        """
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        number = max(self._floor, _highest(self._folder))
        beat: _Beat | None = None
        if number:
            content = _content(_lease_path(self._folder, number))
            beat = _parse(content)
            if not self._is_free(number, content, beat, now):
                return beat.progress if beat else None
        path = _lease_path(self._folder, number + 1)
        mine = _Beat(self._owner, _this_process())
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            self._floor = number + 1
            return None
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(mine))
        if _highest(self._folder) > number + 1:  # our listing was old
            path.unlink(missing_ok=True)
            return None
        for old in range(1, number + 1):
            _lease_path(self._folder, old).unlink(missing_ok=True)
        return FolderLease(path, mine, self._report)

    def _is_free(self, number: int, content: bytes, beat: _Beat | None, now: float) -> bool:
        if beat and (beat.released or _is_dead(beat.process)):
            return True
        if self._seen != (number, content):
            self._seen, self._since = (number, content), now
        return now - self._since > STALE_SECONDS


def _lease_path(folder: Path, number: int) -> Path:
    return folder.with_name(f".{folder.name}.lease.{number}")


def _highest(folder: Path) -> int:
    pattern = re.compile(re.escape(f".{folder.name}.lease.") + r"(\d+)")
    return max((int(found[1]) for name in os.listdir(folder.parent) if (found := pattern.fullmatch(name))), default=0)


def _next_exists(path: Path) -> bool:
    stem, _, number = path.name.rpartition(".")
    return path.with_name(f"{stem}.{int(number) + 1}").exists()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()  # opening asks the server of a network volume; a mere stat may be answered from memory
    except FileNotFoundError:
        return b""


def _parse(content: bytes) -> _Beat | None:
    try:
        return read_json(content, _Beat)
    except InvalidJson:
        return None  # being written at this moment


def _this_process() -> str:
    """What names a process for others of the same machine: boot, pid namespace, pid and its start time."""
    return f"{_machine()}/{os.getpid()}/{_start_time(os.getpid())}"


def _is_dead(process: str) -> bool:
    """Whether a process of this machine and pid namespace is gone. False for others: only their heartbeat shows it."""
    machine, _, rest = process.partition("/")
    pid, _, start = rest.partition("/")
    return bool(machine) and machine == _machine() and pid.isdigit() and _start_time(int(pid)) != start


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}.{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return ""


def _start_time(pid: int) -> str:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]  # a zombie is dead too
