"""Compiled grammars, kept for requests that ask for the same form again."""

import collections
import threading
from collections.abc import Callable

import numpy as np
from llguidance import LLMatcher, LLParserLimits

from ams_pod.engines.builtin.constraints.grammars import grammar_of
from ams_pod.engines.builtin.constraints.guide import Guide
from ams_pod.engines.builtin.constraints.schemas import refusal
from ams_pod.engines.builtin.constraints.vocabulary import Vocabulary
from ams_pod.engines.port import Constraint, EngineRefusal

_LIMITS = LLParserLimits(
    max_items_in_row=2_000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)
_MOST_KEPT = 64
_MOST_KEPT_BYTES = 256 << 20
_BYTES_A_CHARACTER = 200  # of a grammar, as measured of large schemas
_BYTES_A_GRAMMAR = 256 << 10


class Compiled:
    """A grammar that answers can be held to; `Sampling.constraint` of this engine."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, *, reasoning: bool) -> None:
        self._matcher, self._vocabulary, self._reasoning = matcher, vocabulary, reasoning

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def guide(self, *, thinking: bool) -> Guide:
        """For one answer, from its beginning; `thinking`: the prompt opened a reasoning block."""
        return Guide(self._matcher.deep_copy(), self._vocabulary, thinking=thinking, reasoning=self._reasoning)


class Compiler:
    """Compiles each constraint once, as long as it is kept: the least recently used goes first. For several threads."""

    def __init__(self, read_vocabulary: Callable[[], Vocabulary]) -> None:
        self._read_vocabulary = read_vocabulary
        self._vocabulary: Vocabulary | None = None
        self._kept: collections.OrderedDict[Constraint, Compiled | EngineRefusal] = collections.OrderedDict()
        self._lock = threading.Lock()

    def prepare(self, constraint: Constraint) -> Compiled:
        """EngineRefusal for one that can't be followed, or would cost too much."""
        with self._lock:
            if (found := self._kept.get(constraint)) is not None:
                self._kept.move_to_end(constraint)
        if found is None:
            found = self._compiled(constraint)
            self._keep(constraint, found)
        if isinstance(found, EngineRefusal):
            raise EngineRefusal(found.kind, str(found))
        return found

    def _compiled(self, constraint: Constraint) -> Compiled | EngineRefusal:
        try:
            grammar = grammar_of(constraint)
            vocabulary = self._vocabulary or self._read_vocabulary()
            self._vocabulary = vocabulary
            return Compiled(_matcher(grammar, vocabulary), vocabulary, reasoning=constraint.reasoning)
        except EngineRefusal as reason:
            return EngineRefusal(reason.kind, str(reason))
        except BaseException as error:  # what is no text, and panics of llguidance, which are no Exceptions
            return refusal(f"The answer can't be held to this: {_told(str(error))}")

    def _keep(self, constraint: Constraint, compiled: Compiled | EngineRefusal) -> None:
        with self._lock:
            self._kept[constraint] = compiled
            while len(self._kept) > 1 and (len(self._kept) > _MOST_KEPT or self._bytes() > _MOST_KEPT_BYTES):
                self._kept.popitem(last=False)

    def _bytes(self) -> int:
        return sum(_BYTES_A_GRAMMAR + _BYTES_A_CHARACTER * len(constraint.value) for constraint in self._kept)


def _matcher(grammar: str, vocabulary: Vocabulary) -> LLMatcher:
    """At the grammar's beginning. Its first mask is computed once, as much of what can go wrong goes wrong there."""
    matcher = LLMatcher(vocabulary.tokenizer, grammar, log_level=0, limits=_LIMITS)
    allowed = np.zeros(vocabulary.bytes, np.uint8)
    probe = matcher.deep_copy()
    if not probe.is_error():
        probe.unsafe_compute_mask_ptr(allowed.ctypes.data, len(allowed))
    if probe.is_error():
        raise refusal(f"The answer can't be held to this: {_told(probe.get_error())}")
    if probe.is_stopped() or not np.any(allowed & vocabulary.free):
        raise refusal("The answer can't be held to this: it allows no text.")
    return matcher


def _told(error: str) -> str:
    """The reason in llguidance's words, without where in its own data it was found."""
    if error.startswith("panic"):
        return "it is too large."
    lines = [line for line in error.splitlines() if line.strip()]
    sentence = " ".join(" ".join(lines[:3]).split())[:300]
    return sentence if sentence.endswith(".") else f"{sentence}."
