"""Between the thread of an event loop and others."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work` on a loop that runs in another thread; waits for it."""
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def is_running(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the caller is called by this loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
