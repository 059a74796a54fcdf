"""Who holds which slot of the cache: requests that run, and prompts that are being read."""

from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.schedule import close_ranks

_FIRST_ANSWER = 64  # tokens of an answer that there is to be room for when its prompt is begun


class Slots:
    """The rows in the batch of a `Forward`. Between two steps they lie in its first slots, without holes."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._held: list[Row | None] = []

    def __len__(self) -> int:
        return len(self._held)

    @property
    def free(self) -> int:
        return self._forward.max_rows - len(self._held)

    def rows(self) -> list[Row]:
        return [row for row in self._held if row is not None]

    def running(self) -> list[Row]:
        """In the order of their slots."""
        return [row for row in self._held if row is not None and not row.reading]

    def reading(self) -> list[Row]:
        """The oldest first."""
        rows = (row for row in self._held if row is not None and row.reading)
        return sorted(rows, key=lambda row: row.ticket.submitted_at)

    def at(self, slot: int) -> Row:
        """Who holds it; somebody must."""
        row = self._held[slot]
        if row is None:
            raise KeyError(slot)
        return row

    def take(self, row: Row, *, may_move: bool = True) -> bool:
        """The next slot, with room for its prompt and some of the answer; False if the cache has none.

        `may_move` as of `Forward.reserve`.
        """
        slot, keep = len(self._held), self.kept_for_others(row)
        if not self._forward.reserve(slot, self.first_tokens(row), may_move=may_move, keep=keep):
            return False
        row.slot = slot
        self._held.append(row)
        return True

    def first_tokens(self, row: Row) -> int:
        """What a row that is begun needs room for."""
        answer = row.ticket.sampling.max_new_tokens - len(row.tokens)
        return min(self._forward.length, len(row.ids) + max(1, min(answer, _FIRST_ANSWER)))

    def grow(self, row: Row) -> bool:
        """Room for one more token; False if the cache has none. Other rows may move."""
        return self._forward.reserve(row.slot, row.cached + 1, row.cached, keep=self._kept)

    def extend(self, row: Row, tokens: int) -> bool:
        """Room for so many more than the next one; False if the cache has none, or others had to move."""
        return self._forward.reserve(row.slot, row.cached + 1 + tokens, row.cached, may_move=False, keep=self._kept)

    @property
    def _kept(self) -> int:
        """Tokens that are for spare slots; none while there are rows in them."""
        return 0 if len(self._held) > self._forward.max_rows else self._forward.spare_tokens

    def kept_for_others(self, row: Row) -> int:
        """Tokens that stay free when this row begins: those of the spare slots, if its key holds a slot already."""
        key = row.ticket.share.key
        holds = any(each.ticket.share.key == key for each in self.rows())
        return self._kept if holds else 0

    def vacate(self, row: Row) -> None:
        """It leaves a hole, until `close_ranks`."""
        self._forward.vacate(row.slot)
        self._held[row.slot] = None
        row.slot = -1

    def clear(self) -> None:
        for row in self.rows():
            row.slot = -1
        self._held = []

    def close_ranks(self) -> None:
        """Rows that are done leave, and the last ones fill the holes. If the forward fails, all its rows are lost."""
        order = close_ranks([row is None or row.done for row in self._held])
        if order == list(range(len(self._held))):
            return
        held = [self._held[slot] for slot in order]
        self._forward.compact(order, [row.cached for row in held if row is not None])
        self._held = held
        for slot, row in enumerate(held):
            if row is not None:
                row.slot = slot
