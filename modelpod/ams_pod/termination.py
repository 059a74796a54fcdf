"""How a process of the pod tells why it ended: one JSON line, in the termination log and on standard error."""

import contextlib
import sys
from pathlib import Path

import msgspec
from ams_common.progress import Failure

_LONGEST = 2000  # bytes; Kubernetes cuts longer messages, and keeps their end


def failure_line(failure: Failure) -> bytes:
    """The line, at most 2,000 bytes: a longer message loses its end."""
    line = msgspec.json.encode(failure)
    message = failure.message
    while len(line) > _LONGEST:
        message = message[: len(message) - max(1, (len(line) - _LONGEST) // 4)]
        line = msgspec.json.encode(msgspec.structs.replace(failure, message=message + "…"))
    return line


def explain_end(termination_log: str, failure: Failure) -> int:
    """Write the line; returns the exit status of a failure."""
    line = failure_line(failure)
    if termination_log:
        with contextlib.suppress(OSError):
            Path(termination_log).write_bytes(line)
    sys.stderr.write(line.decode() + "\n")
    sys.stderr.flush()
    return 1
