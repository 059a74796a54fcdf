"""Standard output and error that outlive a full disk: what can't be written is dropped, and no model ends by it."""

import errno
import io
import sys
from typing import Any

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class _LossyFile(io.FileIO):
    """A file whose writes succeed even where the disk doesn't take them."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno in _FULL:
                return len(data)
            raise


def drop_what_the_disk_refuses() -> None:
    """From here on lines that don't fit on the disk of the log are lost, instead of ending this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not getattr(sys, f"__{name}__") or stream is None:  # somebody captures it
            continue
        stream.flush()
        buffer = io.BufferedWriter(_LossyFile(stream.fileno(), "w", closefd=False))
        lossy = io.TextIOWrapper(
            buffer, encoding=stream.encoding, errors=stream.errors, line_buffering=True, write_through=name == "stderr"
        )
        setattr(sys, name, lossy)
