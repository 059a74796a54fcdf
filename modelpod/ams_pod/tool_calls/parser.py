"""The calls of one answer, read as its text arrives."""

from collections.abc import Callable

from ams_pod.tool_calls.dialect import Dialect, Functions
from ams_pod.tool_calls.pieces import Read
from ams_pod.tool_calls.reading import Reading

_MOST_CALLS = 128


class CallParser:
    """Feed the text of an answer, without a reasoning block; `full` once it has all calls that it may have."""

    def __init__(
        self,
        dialect: Dialect,
        functions: Functions,
        new_id: Callable[[], str],
        *,
        eager: bool,
        most_calls: int | None = None,
    ) -> None:
        """`eager` gives calls out while they arrive; else only complete ones, and broken ones as text."""
        self._reading = Reading(functions, new_id, eager=eager, most_calls=most_calls or _MOST_CALLS)
        self._walk = dialect.read(self._reading, functions)
        self._walked = False
        self.called = False

    @property
    def full(self) -> bool:
        return self._reading.full

    def push(self, text: str) -> Read:
        """What is certain by now."""
        self._reading.feed(text)
        return self._go_on()

    def finish(self) -> Read:
        """The rest; nothing comes after it."""
        self._reading.end()
        return self._go_on()

    def _go_on(self) -> Read:
        if not self._walked:
            try:
                next(self._walk)
            except StopIteration:
                self._walked = True
        read = self._reading.taken(rest=self._walked)
        self.called = self.called or bool(read.calls)
        return read
