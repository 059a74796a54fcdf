"""The audit log: one line of JSON for each action of an admin, and for each request that a key didn't open."""

import logging
import os
import sys
import time
from pathlib import Path

import msgspec

logger = logging.getLogger("ams_gateway")


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What happened: `audit` is `admin` or `refused`, `error` the code of the refusal. Never a key, whole or in part.

    `client` is the address of the connection, `forwarded_for` what a proxy, or anybody, says of the one behind it.
    """

    audit: str
    time: str
    request_id: str
    method: str
    route: str
    code: int
    key: str = ""
    key_id: str = ""
    model: str = ""
    error: str = ""
    client: str = ""
    forwarded_for: str = ""


class AuditLog:
    """Lines go to the file `path`, which is opened again when it was rotated away, or to stderr where it is empty."""

    def __init__(self, path: str = "") -> None:
        self._path = Path(path) if path else None
        self._descriptor: int | None = None
        self._identity = (0, 0)
        self._failed = False

    def check(self) -> None:
        """OSError if the file can't be written to."""
        if self._path is not None:
            self._open(self._path)

    def add(self, line: AuditLine) -> None:
        """Write a line at once: it must be there even if the process is killed right behind it. Never raises."""
        data = msgspec.json.encode(line) + b"\n"
        try:
            if self._path is None:
                sys.stderr.buffer.write(data)
                sys.stderr.buffer.flush()
            else:
                os.write(self._open(self._path), data)
            self._failed = False
        except (OSError, ValueError) as error:
            if not self._failed:
                self._failed = True
                logger.error("the audit log can't be written: %s", error)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self, path: Path) -> int:
        try:
            info = path.stat()
            identity = (info.st_dev, info.st_ino)
        except FileNotFoundError:
            identity = (0, 0)
        if self._descriptor is None or identity != self._identity:
            self.close()
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            info = os.fstat(self._descriptor)
            self._identity = (info.st_dev, info.st_ino)
        return self._descriptor


def timestamp(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
