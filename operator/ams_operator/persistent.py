"""Jobs that outlive their own mistakes: what one of them didn't expect ends neither it nor the process."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable

from ams_common.backoff import backoff_seconds

log = logging.getLogger(__name__)

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.5, 30.0
_STEADY_SECONDS = 60.0  # a job that ran for longer did not fail at once


async def keep_running(name: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run `job` until it ends, and again after a while whenever it raises."""
    failures = 0
    while True:
        began = time.monotonic()
        try:
            return await job()
        except Exception:
            log.exception("%s failed", name)
        failures = 1 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
        await asyncio.sleep(
            backoff_seconds(failures, random.random(), first=_FIRST_WAIT_SECONDS, longest=_LONGEST_WAIT_SECONDS)
        )
