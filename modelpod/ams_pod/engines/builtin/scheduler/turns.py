"""Whose prompts a step reads, whose rows it leaves out for them, and who makes way: pure decisions between keys.

Within a key, prompts are read in the order they came in (`schedule.share_budget`). Between keys, those of the key whose
turn it is come first. While prompts are read of a key that is behind others, these others read nothing and, for a
while, their rows get no token: so a question is answered as if they weren't there.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ams_pod.shares import FairShares, Share

T = TypeVar("T")

PUT_OFF_SECONDS = 1.0
"""How long rows may be left out of steps, so that their streams pause for no longer than this and a step."""

REDONE = 0.04
"""What part of all computing may be computed again because rows made way for other keys."""

MOST_REDONE_SECONDS = 5.0
"""What may be saved up of it."""


class Places:
    """Slots that prompts can still be given. `spare` ones beyond `rows` are for keys that hold none at all.

    `taken` are in use, `holding` tells by whom; some may be nobody's any more and not yet free.
    """

    def __init__(self, rows: int, spare: int, holding: Iterable[Share], taken: int) -> None:
        self._rows, self._spare, self._taken = rows, spare, taken
        self._held = Counter(share.key for share in holding)

    @property
    def full(self) -> bool:
        return self._taken >= self._rows

    def holds(self, share: Share) -> int:
        return self._held[share.key]

    def has(self, share: Share) -> bool:
        """Whether there is a place for one more prompt of this key."""
        return self._taken < self._rows + (0 if self._held[share.key] else self._spare)

    def take(self, share: Share) -> None:
        """One of those that there are."""
        self._taken += 1
        self._held[share.key] += 1


@dataclass(frozen=True, slots=True)
class Turn(Generic[T]):
    """Prompts that may be read in this step, of each key, the key whose turn it is first; and rows that get a token.

    `lead` is that key, None if nothing is read. `shut_out` has a prompt, holds no slot, and finds none free.
    """

    prompts: list[list[T]]
    decoding: list[T]
    lead: Share | None = None
    shut_out: Share | None = None


@dataclass(slots=True)
class _Draft(Generic[T]):
    prompts: list[list[T]] = field(default_factory=list)
    lead: Share | None = None
    shut_out: Share | None = None


def choose(
    shares: FairShares,
    share_of: Callable[[T], Share],
    *,
    begun: Sequence[T],
    waiting: Sequence[T],
    running: Sequence[T],
    places: Places,
    may_put_off: bool,
    fits: Callable[[T], bool] = lambda row: True,
) -> Turn[T]:
    """`begun` prompts have a slot, `waiting` ones need one; `running` rows have read theirs.

    `fits` gives memory to a prompt that gets a place, if there is any. Where there is none for a prompt, later ones of
    its key wait behind it, however short they are.
    """
    draft = _Draft[T]()
    entries = [(row, True) for row in begun] + [(row, False) for row in waiting]
    for share, group in shares.by_key(entries, lambda entry: share_of(entry[0])):
        if draft.lead is not None and shares.behind(draft.lead, share):
            break  # and so for all others
        held = places.holds(share)
        allowed = _allowed(group, share, places, fits)
        if allowed:
            draft.lead = draft.lead or share
            draft.prompts.append(allowed)
        elif not held and draft.shut_out is None:
            draft.shut_out = share
    decoding = list(running)
    if may_put_off and (lead := draft.lead) is not None:
        decoding = [row for row in running if not shares.behind(lead, share_of(row))]
    return Turn(draft.prompts, decoding, draft.lead, draft.shut_out)


def _allowed(group: Sequence[tuple[T, bool]], share: Share, places: Places, fits: Callable[[T], bool]) -> list[T]:
    allowed, shut = [], False
    for row, has_slot in group:
        if not has_slot:
            shut = shut or not places.has(share) or not fits(row)
            if shut:
                continue
            places.take(share)
        allowed.append(row)
    return allowed


def makes_way(
    shares: FairShares,
    share_of: Callable[[T], Share],
    cost_of: Callable[[T], float],
    asking: Share,
    rows: Sequence[T],
    allowance: float,
) -> T | None:
    """The row that leaves its slot for a key that holds none: the cheapest to compute again, within `allowance`.

    Only keys make way that hold several slots and were served more.
    """
    held = Counter(share_of(row).key for row in rows)
    able = [row for row in rows if held[share_of(row).key] > 1 and shares.behind(asking, share_of(row))]
    cheapest = min(able, key=cost_of, default=None)
    return cheapest if cheapest is not None and cost_of(cheapest) <= allowance else None
