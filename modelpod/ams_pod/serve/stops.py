"""Stop strings: cut the answer before the first of them, and never let a part of one out."""

from collections.abc import Sequence

from ams_pod.serve.thinking import held_suffix


class StopStrings:
    """Feed text pieces; `stopped` turns true when a stop string was completed."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that can't be part of a stop string any more."""
        if not self._stops or self.stopped:
            return "" if self.stopped else text
        text = self._held + text
        if (match := first_complete(text, self._stops)) is not None:
            self.stopped, self._held = True, ""
            return text[:match]
        keep = max(held_suffix(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def first_complete(text: str, stops: Sequence[str]) -> int | None:
    """Where the stop string begins that is complete first, however the text arrives; of two, the one that began first.

    A longer one may have begun earlier in the text and end later.
    """
    matches = [(at + len(stop), at) for stop in stops if (at := text.find(stop)) >= 0]
    return min(matches)[1] if matches else None
