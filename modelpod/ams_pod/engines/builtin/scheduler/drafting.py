"""How many tokens are drafted for whom, so that verifying them pays: pure decisions.

A step that verifies drafts takes longer than a plain one, and makes more tokens where they are right. Both are
measured: how often guesses are right in this request, also of guesses that nothing was drafted of, and how long steps
take that verify so many tokens. Times are in plain steps of as many rows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ams_pod.engines.builtin.scheduler.prompt_lookup import REPLACED, Guess, PromptLookup

MOST_ROWS = 4
"""Rows of a step, above which nothing is drafted: the matmuls are then about as wide as pays."""

_MOST_DRAFTED = 15  # tokens of one row
_MOST_IN_STEP = 32  # tokens of all rows
_WORTH = 1.03  # a step with drafts must make so many times the tokens of a plain one in the same time
_LOSS = 0.02  # what part of a request's time speculation may cost it in the end
_CREDIT = 0.5  # plain steps that it may cost before it has saved any
_MOST_SAVED = 4.0  # plain steps: what was saved long ago doesn't pay for what is lost now

# Of guesses behind so many tokens that agree: how many are right, as long as the request has shown nothing else.
_MATCHED = (REPLACED, 2, 3, 5, 9)
_AT_FIRST = (0.3, 0.15, 0.3, 0.6, 0.85)
_AT_FIRST_WEIGHT = 3.0  # guesses
_FADING = 0.97  # of what was seen, with each further guess of its kind


class Acceptance:
    """How often guesses are right in one request, by how many tokens in front of them agreed."""

    def __init__(self) -> None:
        self._right = [0.0] * len(_MATCHED)
        self._all = [0.0] * len(_MATCHED)

    def note(self, guess: Guess) -> None:
        kind = _kind(guess.matched)
        self._right[kind] = _FADING * self._right[kind] + guess.right
        self._all[kind] = _FADING * self._all[kind] + 1.0

    def chance(self, matched: int) -> float:
        """That the next token is as guessed behind so many that agree."""
        kind = _kind(matched)
        right = self._right[kind] + _AT_FIRST_WEIGHT * _AT_FIRST[kind]
        return right / (self._all[kind] + _AT_FIRST_WEIGHT)


def _kind(matched: int) -> int:
    kind = 0
    while kind + 1 < len(_MATCHED) and matched >= _MATCHED[kind + 1]:
        kind += 1
    return kind


class Balance:
    """What drafts saved one request, in plain steps: the tokens that it got, less the time that they took."""

    def __init__(self) -> None:
        self._saved = 0.0
        self._time = 0.0

    def note(self, tokens: int, time: float) -> None:
        """A step of so much `time` made so many of its tokens."""
        self._time += time
        self._saved = min(_MOST_SAVED, self._saved + tokens - time)

    @property
    def slack(self) -> float:
        """How much longer than a plain step one may take that makes a single token of it."""
        return self._saved + _LOSS * self._time + _CREDIT


@dataclass(slots=True)
class Copying:
    """What is known of how one request's answer repeats what came before."""

    lookup: PromptLookup
    acceptance: Acceptance = field(default_factory=Acceptance)
    balance: Balance = field(default_factory=Balance)

    def append(self, token: int) -> None:
        """A token of the answer."""
        if (guess := self.lookup.append(token)) is not None:
            self.acceptance.note(guess)

    def candidate(self, room: int) -> "Candidate":
        """What may be drafted, if there is `room` for so many tokens."""
        chances: list[float] = []
        if (matched := self.lookup.matched) and room > 0:
            chance = 1.0
            for at in range(min(room, _MOST_DRAFTED)):
                chance *= self.acceptance.chance(matched + at)
                chances.append(chance)
        return Candidate(chances, self.balance.slack)


NOT_COPYING = Balance().slack


class Candidate(NamedTuple):
    """A row of a step: the chances that so many tokens of its draft are right, and what it may lose by others'."""

    chances: Sequence[float]
    slack: float


def draft_lengths(rows: Sequence[Candidate], time: Callable[[int], float]) -> list[int]:
    """How many tokens to draft for each row, so that the step makes the most tokens for its time.

    `time` is that of a step with so many drafted tokens, in plain steps. No row may be slowed beyond its slack.
    """
    best, most = 0, _WORTH * len(rows)
    slack = min((row.slack for row in rows), default=0.0)
    likely = sorted(((-chance, at, index) for index, row in enumerate(rows) for at, chance in enumerate(row.chances)))[
        :_MOST_IN_STEP
    ]
    tokens = float(len(rows))
    for count, (chance, _, _) in enumerate(likely, 1):
        tokens -= chance
        taken = time(count)
        if taken - 1.0 <= slack and tokens / taken > most:
            best, most = count, tokens / taken
    lengths = [0] * len(rows)
    for _, _, index in likely[:best]:
        lengths[index] += 1
    return lengths
