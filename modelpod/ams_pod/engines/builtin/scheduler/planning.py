"""What the next step computes: rows that get a token, and how far which prompts are read."""

import collections
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from ams_pod.engines.builtin.model.batch import Chunk, Forward
from ams_pod.engines.builtin.scheduler.row import Row, readable
from ams_pod.engines.builtin.scheduler.row_prefixes import RowPrefixes
from ams_pod.engines.builtin.scheduler.schedule import Pace, chunk_budget, share_among
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.builtin.scheduler.turns import (
    MOST_REDONE_SECONDS,
    PUT_OFF_SECONDS,
    REDONE,
    Places,
    Turn,
    choose,
    makes_way,
)
from ams_pod.shares import FairShares, Share

Chunks = list[tuple[Row, Chunk]]


def _share(row: Row) -> Share:
    return row.ticket.share


class Planner:
    """Looks at who holds `slots` and who is `waiting` (next first), and gives slots to prompts that are begun."""

    def __init__(
        self,
        forward: Forward,
        slots: Slots,
        waiting: collections.deque[Row],
        shares: FairShares,
        prefixes: RowPrefixes,
    ) -> None:
        self.lost_media: list[Row] = []  # to be encoded after all; for the engine to take and clear
        self._prefixes = prefixes
        self.pace = Pace()
        self.lead: Share | None = None  # whose prompts the last step read
        self._forward, self._slots, self._waiting, self._shares = forward, slots, waiting, shares
        self._all_decoded_at = 0.0  # when no row was left out
        self._redone_allowance = 0.0

    def turn(self, now: float, *, admit: bool) -> Turn[Row]:
        """For a step at `now`, which begins waiting prompts only if it may `admit` any."""
        running, begun = self._slots.running(), self._slots.reading()
        waiting = list(self._waiting) if admit else []
        if any(row.apart for row in begun) or any(row.apart for row in waiting):
            queue = readable([*begun, *waiting[: self._slots.free]], bool(running))
            return Turn([queue], running)
        return choose(
            self._shares,
            _share,
            begun=begun,
            waiting=waiting,
            running=running,
            places=self._places(),
            may_put_off=self._forward.any_rows and now - self._all_decoded_at < PUT_OFF_SECONDS,
            fits=self._memory(),
        )

    def make_way(self, turn: Turn[Row]) -> Row | None:
        """The row that left its slot for a key that finds none, to be computed again; the slot is a hole yet."""
        per_token = self.pace.seconds_per_token
        if turn.shut_out is None or per_token is None:
            return None
        rows = [row for row in self._slots.rows() if not row.done]
        row = makes_way(
            self._shares, _share, lambda row: row.cached * per_token, turn.shut_out, rows, self._redone_allowance
        )
        if row is not None:
            self._redone_allowance -= row.cached * per_token
            self._slots.vacate(row)
            row.set_aside(alone=False)
            row.ticket.set_asides += 1
            self._waiting.appendleft(row)
        return row

    def make_room(self, decoding: Sequence[Row]) -> list[Row]:
        """Room for the next token of all who get one. Where there is none, rows leave their slots.

        The newest go first, of keys that hold several slots. They are returned, and wait to be computed again. The
        oldest row always has room.
        """
        gone: list[Row] = []
        for row in sorted(decoding, key=lambda row: row.ticket.submitted_at):
            while row.slot >= 0 and not self._slots.grow(row):
                rows = [each for each in self._slots.rows() if not each.done]
                held = Counter(each.share.key for each in rows)
                several = [each for each in rows if held[each.share.key] > 1]
                newest = max(several or rows, key=lambda each: each.ticket.submitted_at)
                self._slots.vacate(newest)
                newest.set_aside(alone=False)
                gone.append(newest)
        for row in sorted(gone, key=lambda row: row.ticket.submitted_at, reverse=True):
            self._waiting.appendleft(row)
        return gone

    def chunks(self, turn: Turn[Row], now: float) -> Chunks:
        """How far each prompt is read. Those that are begun leave the queue for a slot."""
        self.lead = turn.lead
        if len(turn.decoding) == len(self._slots.running()):
            self._all_decoded_at = now
        if self._forward.whole_prompts:
            first = [turn.prompts[0][:1]] if turn.prompts else []  # one in a step: all who are running wait for it
            return self._take(first, sum(len(row.ids) for group in first for row in group))
        return self._take(turn.prompts, self._budget(bool(turn.decoding)))

    def urgent_chunks(self, computing: Collection[Share]) -> Chunks:
        """What is read at once, within a step for keys that were all served more than these prompts' keys."""
        begun = [row for row in self._slots.reading() if not row.apart and self._urgent(row, computing)]
        waiting = [row for row in self._waiting if not row.apart and self._urgent(row, computing)]
        if not begun and not waiting:
            return []
        turn = choose(
            self._shares, _share, begun=begun, waiting=waiting, running=(), places=self._places(), may_put_off=False,
            fits=self._memory(),
        )  # fmt: skip
        return self._take(turn.prompts, self._budget(False), may_move=False)

    def _budget(self, running: bool) -> int:
        return chunk_budget(running, self.pace.seconds_per_token, wide=self._forward.reads_wide)

    def is_urgent(self, computing: Collection[Share]) -> bool:
        """Whether a prompt could be read whose key is behind all of these."""
        return any(self._urgent(row, computing) for row in self._slots.reading()) or any(
            self._urgent(row, computing) for row in self._waiting
        )

    @property
    def full(self) -> bool:
        return len(self._slots) >= self._forward.max_rows

    def note(self, read: int, rows: bool, seconds: float, *, usual: bool = True) -> None:
        """What a step took; the `usual` ones verify no drafts, and are what prompts are read beside."""
        if usual:
            self.pace.note(read, rows, seconds)
        self._redone_allowance = min(MOST_REDONE_SECONDS, self._redone_allowance + REDONE * seconds)

    def _urgent(self, row: Row, computing: Collection[Share]) -> bool:
        return all(self._shares.behind(row.ticket.share, other) for other in computing)

    def _places(self) -> Places:
        holding = [row.ticket.share for row in self._slots.rows()]
        return Places(self._forward.max_rows, self._forward.spare_rows, holding, len(self._slots))

    def _memory(self) -> Callable[[Row], bool]:
        """Gives the cache's free tokens away, row by row."""
        free = self._forward.free_tokens

        def fits(row: Row) -> bool:
            nonlocal free
            free -= self._forward.room_for(self._slots.first_tokens(row))
            return free >= self._slots.kept_for_others(row)

        return fits

    def _take(self, groups: Sequence[Sequence[Row]], budget: int, *, may_move: bool = True) -> Chunks:
        groups = self._worth_reading(groups)
        counts = share_among([[self._unread(row) for row in group] for group in groups], budget)
        planned: Chunks = []
        for group, taken in zip(groups, counts, strict=True):
            for row, count in zip(group, taken, strict=True):
                if not count:
                    continue
                if row.slot < 0:
                    if not self._slots.take(row, may_move=may_move):
                        continue
                    self._waiting.remove(row)
                    self._prefixes.load(row)
                planned.append((row, row.chunk(row.next_end(min(len(row.ids), row.read + count)))))
        return planned

    def _unread(self, row: Row) -> int:
        """How many tokens of a prompt are neither read nor kept from an earlier one."""
        return len(row.ids) - (row.read if row.slot >= 0 else self._prefixes.count(row))

    def _worth_reading(self, groups: Sequence[Sequence[Row]]) -> list[list[Row]]:
        """Without prompts that had better wait: one that is being read begins alike, and will be kept."""
        reading, taken = self._slots.reading(), []
        for group in groups:
            kept = []
            for row in group:
                if self._lost_media(row) or (row.slot < 0 and self._prefixes.follows(row, reading)):
                    continue
                kept.append(row)
                if row.slot < 0:
                    reading.append(row)
            taken.append(kept)
        return taken

    def _lost_media(self, row: Row) -> bool:
        """Whether media of a prompt were kept from an earlier one when it came, and no longer are: to the towers."""
        if row.slot >= 0 or not row.media_end or self._prefixes.count(row) >= row.media_end:
            return False
        self._waiting.remove(row)
        self.lost_media.append(row)
        return True
