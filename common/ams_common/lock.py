"""The lock of a model's weights: which files there are, each with its sha256."""

import hashlib
from collections.abc import Mapping

import msgspec

from ams_common.outside import InvalidJson, read_json
from ams_common.resource.status import LockStatus


class DownloadResult(msgspec.Struct, frozen=True):
    """The termination message of a container that has downloaded the weights."""

    lock: LockStatus


def lock_of(text: str) -> LockStatus | None:
    """From JSON; None if it is none."""
    try:
        return read_json(text, LockStatus)
    except InvalidJson:
        return None


def lock_status(files: Mapping[str, str]) -> LockStatus:
    """`files` to sha256 in hexadecimal. The sum is that of what `sha256sum` prints for the sorted files."""
    text = "".join(f"{digest}  {file}\n" for file, digest in sorted(files.items()))
    return LockStatus(files=len(files), sha256=hashlib.sha256(text.encode()).hexdigest())
