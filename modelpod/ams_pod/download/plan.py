"""Whether the chosen files fit the volume, and whether they are the locked ones. Pure: sizes and digests in."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ams_common.hub_files import RemoteFile, is_weights
from ams_common.outside import InvalidJson, read_json
from ams_common.reasons import Reason

from ams_pod.download.failures import Failed, disk_full

# Beside the bytes of the files: file system metadata, manifest, journal.
_SPARE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What is to be transferred. `total_bytes` counts what is there already, `missing_bytes` does not."""

    files: tuple[RemoteFile, ...]
    total_bytes: int
    missing_bytes: int


def plan_download(
    files: Sequence[RemoteFile], present: Mapping[str, int], *, folder: str, free_bytes: int
) -> TransferPlan:
    """The transfer of `files`, of which `present` bytes are there per path. Failed (DiskFull) if it can't fit."""
    total = sum(file.size or 0 for file in files)
    missing = sum(max(0, (file.size or 0) - present.get(file.path, 0)) for file in files)
    if missing and missing + _SPARE_BYTES > free_bytes:
        raise disk_full(folder, needed=missing + _SPARE_BYTES, free=free_bytes)
    return TransferPlan(tuple(files), total, missing)


def parse_lock(text: str) -> dict[str, str]:
    """The lock setting: a JSON object of file to sha256. Failed (InvalidLock) if it is something else."""
    if not text.strip():
        return {}
    try:
        lock = read_json(text, dict[str, str])
    except InvalidJson as error:
        raise Failed(
            Reason.INVALID_LOCK, f"spec.model.lock must be a JSON object of file to sha256: it {error}."
        ) from None
    return parse_lock_files(lock, "spec.model.lock")


def parse_lock_files(lock: Mapping[str, str], what: str) -> dict[str, str]:
    """A lock of file to sha256, of which `what` is the place. Failed (InvalidLock) for what is no sha256."""
    for path, digest in lock.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise Failed(Reason.INVALID_LOCK, f"{what}: the sha256 of {path} must be 64 hexadecimal digits.")
    return {path: digest.lower() for path, digest in lock.items()}


def check_lock(lock: Mapping[str, str], digests: Mapping[str, str | None]) -> None:
    """Compare files with the lock; Failed (LockMismatch) names the first that differs.

    `digests` maps each file to its sha256, None where it isn't known yet. Locked files must be there, and weights
    that the lock doesn't name are a mismatch too: they would be served unpinned.
    """
    if not lock:
        return
    for path, locked in sorted(lock.items()):
        if path not in digests:
            raise _mismatch(f"{path} is locked but not part of the model")
        if (actual := digests[path]) is not None and actual != locked:
            raise _mismatch(f"{path} has sha256 {actual}, the lock has {locked}")
    for path in sorted(digests):
        if path not in lock and is_weights(path):
            raise _mismatch(f"{path} holds weights but the lock doesn't name it")


def _mismatch(what: str) -> Failed:
    return Failed(Reason.LOCK_MISMATCH, f"{what}; nothing is served. Update its lock if the change is intended.")
