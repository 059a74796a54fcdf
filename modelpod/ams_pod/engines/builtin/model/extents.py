"""Who has which part of the pool of keys and values, and which parts one attention call reads: pure decisions.

A request's keys lie in one extent of the pool, heads one after another, so that attention reads them as a plain view.
An extent holds as many tokens as its class allows; a request that outgrows its extent moves to one of the next class.
Extents of a class that follow each other are one view, and so one call, also where nobody's lies between them.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_SMALLEST = 64  # tokens of an extent
_WIDTH_STEP = 16
_CALL_COST = 96  # an attention call costs about as much as this many keys of one row


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """`capacity` tokens of the pool, from the token `offset` on."""

    offset: int
    capacity: int

    @property
    def end(self) -> int:
        return self.offset + self.capacity


def capacity_for(tokens: int, longest: int) -> int:
    """The class of an extent for so many tokens: 64, 96, 128, 192, 256 …, at most `longest`.

    Half steps between the powers of two, so that at most a third of an extent is more than was asked for.
    """
    capacity = _SMALLEST
    while capacity < tokens:
        half = capacity + capacity // 2
        capacity = half if tokens <= half else 2 * capacity
    return min(capacity, longest)


class Extents:
    """Which parts of a pool of `tokens` are free."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.free = tokens
        self._holes: list[Extent] = [Extent(0, tokens)]  # by their places; no two touch

    @property
    def end(self) -> int:
        """Where the last extent that somebody has ends."""
        last = self._holes[-1] if self._holes else None
        return last.offset if last is not None and last.end == self.tokens else self.tokens

    def take(self, capacity: int, *, below: int | None = None) -> Extent | None:
        """The first part that is free and large enough, if it begins `below` that token; None if there is none."""
        for index, hole in enumerate(self._holes):
            if below is not None and hole.offset >= below:
                return None
            if hole.capacity < capacity:
                continue
            if hole.capacity == capacity:
                del self._holes[index]
            else:
                self._holes[index] = Extent(hole.offset + capacity, hole.capacity - capacity)
            self.free -= capacity
            return Extent(hole.offset, capacity)
        return None

    def give(self, extent: Extent) -> None:
        """It is free again."""
        self.free += extent.capacity
        index = bisect.bisect(self._holes, extent)
        offset, end = extent.offset, extent.end
        if index < len(self._holes) and self._holes[index].offset == end:
            end = self._holes.pop(index).end
        if index and self._holes[index - 1].end == offset:
            index -= 1
            offset = self._holes.pop(index).offset
        self._holes.insert(index, Extent(offset, end - offset))


def packed(extents: Mapping[int, Extent]) -> dict[int, Extent]:
    """The same owners' extents without a hole between them, none further up than it was; those of a class together
    as far as they were."""
    moved, at = {}, 0
    for owner, extent in sorted(extents.items(), key=lambda item: item[1]):
        moved[owner] = Extent(at, extent.capacity)
        at += extent.capacity
    return moved


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call: of each of `rows`, whose extents of one class follow each other, it reads `width` keys.

    The first is at `first`; where nobody's extent lies between, None stands for it in `rows`.
    """

    first: Extent
    rows: tuple[int | None, ...]
    width: int


def attention_calls(extents: Sequence[Extent], lengths: Sequence[int]) -> list[Call]:
    """How rows with these extents, and so many keys each, are divided into calls.

    Neighbours share a call while what it reads in vain, of shorter rows and of what is nobody's, costs less than
    another call would.
    """
    order = sorted(range(len(extents)), key=lambda row: (extents[row].capacity, extents[row].offset))
    calls: list[Call] = []
    for row in order:
        extent = extents[row]
        width = min(extent.capacity, -(-lengths[row] // _WIDTH_STEP) * _WIDTH_STEP)
        calls.append(Call(extent, (row,), width))
        while len(calls) > 1 and (both := _together(*calls[-2:])) is not None:
            calls[-2:] = [both]
    return calls


def _together(left: Call, right: Call) -> Call | None:
    """One call for both; None where it isn't worth it or can't be."""
    capacity = left.first.capacity
    if right.first.capacity != capacity:
        return None
    gap, rest = divmod(right.first.offset - left.first.offset - len(left.rows) * capacity, capacity)
    if rest or gap < 0:
        return None
    width = max(left.width, right.width)
    vain = len(left.rows) * (width - left.width) + len(right.rows) * (width - right.width) + gap * width
    if vain > _CALL_COST:
        return None
    return Call(left.first, (*left.rows, *[None] * gap, *right.rows), width)
