"""Who holds which slot of the cache: requests that run, and prompts that are being read."""

from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.schedule import close_ranks


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

    def take(self, row: Row) -> None:
        row.slot = len(self._held)
        self._held.append(row)

    def vacate(self, row: Row) -> None:
        """It leaves a hole, until `close_ranks`."""
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
