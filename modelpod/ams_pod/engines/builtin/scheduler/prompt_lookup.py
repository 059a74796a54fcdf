"""Prompt lookup: what an answer goes on with, guessed from where its last tokens stood before. Pure.

An answer that copies, as an edited text or the arguments of a tool do, goes on as the place did that it copies. That
place is found by the last three tokens, or else the last two, wherever they came last in prompt and answer; from
then on it is followed for as long as the answer agrees. Where it doesn't, one token may have been replaced: then it
goes on behind that one. Saxena, "Prompt Lookup Decoding" (2023); vLLM's `ngram`.
"""

from collections.abc import Sequence
from typing import NamedTuple

_MOST_INDEXED = 16_384  # tokens of a prompt, its last ones; those of the answer come on top
_MOST_KEPT = 2 * _MOST_INDEXED  # tokens; beyond them all but the last _MOST_INDEXED are forgotten
_FOLLOWED = 3  # tokens that must have agreed in front of one that may have been replaced
REPLACED = 1  # in place of how many tokens agree
_BASE = 1 << 21  # of n-grams as numbers, above the ids of tokens


class Guess(NamedTuple):
    """What became of a guess: so many tokens in front of it agreed, and it was `right` or not.

    REPLACED of the first one behind a token that may have been replaced.
    """

    matched: int
    right: bool


class PromptLookup:
    """Of one request. Its memory is bounded, and a token is added in constant time, amortized."""

    def __init__(self, tokens: Sequence[int]) -> None:
        """`tokens` are the prompt, and what was made of the answer."""
        self._tokens: list[int] = []
        self._behind: dict[int, int] = {}  # where the token behind an n-gram is, of the last time that it came
        self._at: int | None = None  # the token that is guessed to come next
        self._matched = 0
        self._restart(tokens[-_MOST_INDEXED:])

    @property
    def matched(self) -> int:
        """How many of the last tokens agree with those in front of what is proposed, or REPLACED; 0: nothing is."""
        return self._matched

    def append(self, token: int) -> Guess | None:
        """A token of the answer; None if there was no guess."""
        if len(self._tokens) >= _MOST_KEPT:
            self._restart(self._tokens[-_MOST_INDEXED:])
        at = self._at
        guess = None if at is None else Guess(self._matched, self._tokens[at] == token)
        found, length = self._add(token)
        if at is not None and guess is not None and guess.right:
            self._at, self._matched = at + 1, self._matched + 1
        elif at is not None and found is None and self._matched >= _FOLLOWED:
            self._at, self._matched = at + 1, REPLACED
        else:
            self._at, self._matched = found, length
        return guess

    def propose(self, most: int) -> list[int]:
        """Up to `most` tokens that may come next. What reaches the answer's end is gone through again."""
        if self._at is None or most <= 0:
            return []
        proposed = self._tokens[self._at : self._at + most]
        period = len(proposed)
        while len(proposed) < most:
            proposed.append(proposed[-period])
        return proposed

    def _restart(self, tokens: Sequence[int]) -> None:
        self._tokens, self._behind = [], {}
        self._at, self._matched = None, 0
        for token in tokens:
            self._at, self._matched = self._add(token)

    def _add(self, token: int) -> tuple[int | None, int]:
        """What stood behind the last tokens, this one included, when they came before; and how many those are."""
        tokens, behind = self._tokens, self._behind
        tokens.append(token)
        end = len(tokens)
        if end < 2:
            return None, 0
        pair = tokens[-2] * _BASE + token
        by_two = behind.get(pair)
        behind[pair] = end
        if end < 3:
            return by_two, 0 if by_two is None else 2
        triple = ((tokens[-3] + 1) * _BASE + tokens[-2]) * _BASE + token
        by_three = behind.get(triple)
        behind[triple] = end
        if by_three is not None:
            return by_three, 3
        return by_two, 0 if by_two is None else 2
