"""Stop strings: cut the answer before the first of them, and never let a part of one out."""

from collections.abc import Sequence

from ams_pod.serve.thinking import held_suffix


class StopStrings:
    """Feed text pieces; `stopped` turns true when a stop string was completed, and `stopped_by` is the one."""

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        """`include`: the stop string itself still belongs to the answer."""
        self._stops = tuple(stops)
        self._include = include
        self._held = ""
        self.stopped_by: str | None = None

    @property
    def stopped(self) -> bool:
        return self.stopped_by is not None

    def push(self, text: str) -> str:
        """The text that can't be part of a stop string any more."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        text = self._held + text
        if (match := first_complete(text, self._stops)) is not None:
            start, end = match
            self.stopped_by, self._held = text[start:end], ""
            return text[: end if self._include else start]
        keep = max(held_suffix(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def first_complete(text: str, stops: Sequence[str]) -> tuple[int, int] | None:
    """Where the stop string begins and ends that is complete first, however the text arrives.

    Of two it is the one that began first: a longer one may have begun earlier in the text and end later.
    """
    matches = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    if not matches:
        return None
    end, start = min(matches)
    return start, end
