"""Where the answer of one request is in its grammar, and which tokens may be next."""

import time
from typing import Literal

import numpy as np
from llguidance import LLMatcher

from ams_pod.engines.builtin.constraints.vocabulary import Bits, Vocabulary, there_of_close
from ams_pod.engines.port import EngineRefusal

_State = Literal["begin", "thinking", "between", "held"]
_MOST_BETWEEN = 4  # tokens of white space between a reasoning block and the answer
_FREE_SECONDS = 0.5
_SECONDS_A_TOKEN = 0.01  # longer on average, and the grammar costs everybody in the batch too much


class Guide:
    """Of one request. `fill` may be called in another thread, while nothing else is.

    `complete`: nothing may follow. `error` is why it can't go on.
    """

    __slots__ = ("_between", "_made", "_matcher", "_seconds", "_state", "_tail", "_vocabulary", "complete", "error")

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, *, thinking: bool, reasoning: bool) -> None:
        """`thinking`: the prompt opened a reasoning block; `reasoning`: the answer may begin with one."""
        self._matcher, self._vocabulary = matcher, vocabulary
        self._state: _State = "held"
        if reasoning and vocabulary.closing is not None:
            self._state = "thinking" if thinking else "begin"
        self._tail = b""
        self._between = self._made = 0
        self._seconds = 0.0
        self.complete = False
        self.error: EngineRefusal | None = None

    @property
    def accepting(self) -> bool:
        """The answer may end here."""
        return self._state != "thinking" and self.error is None and bool(self._matcher.is_accepting())

    @property
    def bytes(self) -> int:
        """Of a mask."""
        return self._vocabulary.bytes

    def fill(self, allowed: Bits) -> None:
        """Write which tokens may be next; where that can't be told, none is and `error` says why."""
        try:
            self._fill(allowed)
        except BaseException as error:  # a panic of llguidance is no Exception, and concerns this answer alone
            self._fail(error)
        if self.error is not None:
            allowed[:] = 0

    def _fill(self, allowed: Bits) -> None:
        vocabulary = self._vocabulary
        if self._state == "thinking":
            np.bitwise_and(vocabulary.free, ~vocabulary.completing[there_of_close(self._tail)], out=allowed)
            return
        started = time.thread_time()  # what it waits for a busy machine is not its own
        self._matcher.unsafe_compute_mask_ptr(allowed.ctypes.data, len(allowed))
        self._seconds += time.thread_time() - started
        if self._matcher.is_error():
            self._fail(self._matcher.get_error())
        elif self._seconds > _FREE_SECONDS + _SECONDS_A_TOKEN * self._made:
            self.error = EngineRefusal("invalid-constraint", "What the answer is held to takes too long to follow.")
        if self._state == "begin" and vocabulary.opening is not None:
            allowed[vocabulary.opening // 8] |= np.uint8(1 << vocabulary.opening % 8)
        elif self._state == "between" and self._between < _MOST_BETWEEN:
            np.bitwise_or(allowed, vocabulary.blank, out=allowed)

    def accept(self, token: int) -> None:
        """A token that was chosen and ends nothing."""
        vocabulary = self._vocabulary
        self._made += 1
        if self._state == "begin" and token == vocabulary.opening:
            self._state = "thinking"
        elif self._state == "thinking":
            if token == vocabulary.closing:
                self._state = "between"
            else:
                self._tail = (self._tail + vocabulary.texts[token])[-8:]
        elif self._state == "between" and vocabulary.is_blank(token):
            self._between += 1
        else:
            self._state = "held"
            try:
                if not self._matcher.consume_token(token):
                    self._fail(self._matcher.get_error())
                else:
                    self.complete = bool(self._matcher.is_stopped())
            except BaseException as error:
                self._fail(error)

    def _fail(self, reason: object) -> None:
        sentence = str(reason).split("\n", 1)[0][:200]
        self.error = EngineRefusal(
            "invalid-constraint", f"What the answer is held to can't be followed any further: {sentence}."
        )
