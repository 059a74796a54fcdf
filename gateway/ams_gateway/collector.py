"""The collector of reference cycles in a process that forwards requests."""

import asyncio
import contextlib
import gc
import os
import time
from collections.abc import AsyncIterator

from ams_common.collector import collect_rarely, leave_out_what_is_here


@contextlib.asynccontextmanager
async def collecting_rarely() -> AsyncIterator[None]:
    """Meanwhile nothing is collected but rarely, and what is here now never: enter it once everything has started.

    Not even young objects: those of a thousand streams that come and go are all young.
    """
    leave_out_what_is_here()
    gc.disable()
    task = asyncio.create_task(collect_rarely(time.monotonic, asyncio.sleep, _resident_bytes))
    try:
        yield
    finally:
        gc.enable()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _resident_bytes() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):  # not Linux
        return 0
