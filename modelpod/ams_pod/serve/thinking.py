"""Split a reasoning model's text into what it thought and what it answers, as the text arrives."""

from collections.abc import Sequence
from dataclasses import dataclass

from ams_pod.engines.port import TokenLogprobs
from ams_pod.tool_calls import CallDelta

__all__ = ["CallDelta", "Delta", "ThinkSplitter", "held_suffix", "joined"]

OPEN, CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Delta:
    """New text: `content` belongs to the answer, `thinking` to the block before it, `calls` to calls of tools.

    `logprobs` are those of the tokens that came since the last one, where they were asked for.
    """

    content: str = ""
    thinking: str = ""
    calls: tuple[CallDelta, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.content or self.thinking or self.calls or self.logprobs)


def joined(deltas: Sequence[Delta]) -> Delta:
    """What came piece by piece as one piece."""
    return Delta(
        "".join(each.content for each in deltas),
        "".join(each.thinking for each in deltas),
        tuple(call for each in deltas for call in each.calls),
        tuple(token for each in deltas for token in each.logprobs),
    )


class ThinkSplitter:
    """Feed text pieces; tags may be split anywhere between them. Only a block at the start counts as thinking.

    `inside`: the prompt's template opened the block already.
    """

    def __init__(self, inside: bool) -> None:
        self._state = "thinking" if inside else "start"
        self._held = ""
        self._trim = inside  # drop white space at the start of what comes next

    @property
    def thinking(self) -> bool:
        return self._state == "thinking"

    def push(self, text: str) -> Delta:
        """The text that is certain by now."""
        if self._state == "content" and not self._trim:
            return Delta(content=text)
        text = self._held + text
        self._held = ""
        thought = ""
        if self._state == "start":
            stripped = text.lstrip()
            if OPEN.startswith(stripped[: len(OPEN)]) and len(stripped) < len(OPEN):
                self._held = text
                return Delta()
            if not stripped.startswith(OPEN):
                self._state = "content"
                return Delta(content=text)
            self._state, self._trim, text = "thinking", True, stripped[len(OPEN) :]
        if self._state == "thinking":
            before, tag, after = text.partition(CLOSE)
            if not tag:
                keep = held_suffix(text, CLOSE)
                self._held = text[len(text) - keep :]
                return Delta(thinking=self._trimmed(text[: len(text) - keep]))
            thought = self._trimmed(before)
            self._state, self._trim, text = "content", True, after
        return Delta(content=self._trimmed(text), thinking=thought)

    def finish(self) -> Delta:
        """What was held back and turned out to be no tag."""
        held, self._held = self._held, ""
        return Delta(thinking=held) if self._state == "thinking" else Delta(content=held)

    def _trimmed(self, text: str) -> str:
        if self._trim:
            text = text.lstrip()
            self._trim = not text
        return text


def held_suffix(text: str, tag: str) -> int:
    """Length of the longest end of `text` that could be the beginning of `tag`."""
    for length in range(min(len(text), len(tag) - 1), 0, -1):
        if text.endswith(tag[:length]):
            return length
    return 0
