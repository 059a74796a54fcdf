"""Which slot of an engine computes a request, where that is ours to choose: the one that holds most of its prompt.

Only what requests of the same salt left is used again. Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class _Slot:
    ids: Sequence[int] = ()
    salt: str | None = None  # None: whatever it holds is nobody's
    busy: bool = False
    used: int = 0  # when it was given out last, in requests


class Slots:
    """The slots of one engine, of which each computes one request at a time."""

    def __init__(self, count: int) -> None:
        self._slots = [_Slot() for _ in range(count)]
        self._given = 0

    def take(self, ids: Sequence[int], salt: str) -> tuple[int, bool]:
        """(the slot, whether what it holds may be used again). One must be free."""
        free = [number for number, slot in enumerate(self._slots) if not slot.busy]
        own = [number for number in free if self._slots[number].salt == salt]
        best, most = None, 0
        for number in own:
            if (alike := common_prefix(self._slots[number].ids, ids)) > most:
                best, most = number, alike
        if best is None:
            best = min(free, key=lambda number: (self._slots[number].salt == salt, self._slots[number].used))
        slot = self._slots[best]
        reuses = slot.salt == salt
        self._given += 1
        slot.ids, slot.salt, slot.busy, slot.used = list(ids), salt, True, self._given
        return best, reuses

    def give_back(self, number: int) -> None:
        self._slots[number].busy = False

    def forget(self) -> None:
        """The engine started anew and holds nothing."""
        for slot in self._slots:
            slot.ids, slot.salt = (), None


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    least, most = 0, min(len(one), len(other))
    while least < most:  # by halves: comparing slices is fast
        middle = (least + most + 1) // 2
        if one[least:middle] == other[least:middle]:
            least = middle
        else:
            most = middle - 1
    return least
