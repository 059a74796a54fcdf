"""Drafts of the rows of a step, and what became of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.scheduler.drafting import (
    MOST_ROWS,
    NOT_COPYING,
    Candidate,
    Copying,
    draft_lengths,
)
from ams_pod.engines.builtin.scheduler.prompt_lookup import PromptLookup
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.builtin.scheduler.step_times import StepTimes
from ams_pod.engines.port import EngineCounters

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Draft:
    """`tokens` that may come behind a row's last one. `accepted` is how many the step made beyond the usual one."""

    tokens: Sequence[int]
    accepted: int = 0


Drafts = Mapping[Row, Draft]

NO_DRAFTS: Drafts = {}


class Speculation:
    """Of one engine. For the compute thread."""

    def __init__(self, forward: Forward, slots: Slots, counters: EngineCounters, *, on: bool) -> None:
        """Where it isn't `on`, nothing is drafted, and where the forward can't read several tokens into a row."""
        self._forward, self._slots, self._counters = forward, slots, counters
        self._on = on and forward.any_rows and not forward.whole_prompts
        self._times: dict[bool, StepTimes] = {True: StepTimes(), False: StepTimes()}  # by `_is_greedy`

    def drafts(self, rows: Sequence[Row]) -> Drafts:
        """What to verify in a step that decodes these rows, and does nothing else."""
        if not self._on or not 0 < len(rows) <= MOST_ROWS:
            return NO_DRAFTS
        candidates = [self._candidate(row) for row in rows]
        if not any(candidate.chances for candidate in candidates):
            return NO_DRAFTS
        time = self._times[_is_greedy(rows)].of(len(rows))
        if time is None:
            return NO_DRAFTS
        drafts: dict[Row, Draft] = {}
        for row, length in zip(rows, draft_lengths(candidates, time), strict=True):
            if length and row.copying is not None and self._slots.extend(row, length):
                drafts[row] = Draft(row.copying.lookup.propose(length))
        return drafts

    def note(self, rows: Sequence[Row], drafts: Drafts, seconds: float | None) -> None:
        """A step of these rows was computed; None where it took time for other things."""
        drafted = sum(len(draft.tokens) for draft in drafts.values())
        self._counters.drafted_tokens += drafted
        self._counters.accepted_tokens += sum(draft.accepted for draft in drafts.values())
        if not self._on or not 0 < len(rows) <= MOST_ROWS:
            return
        times = self._times[_is_greedy(rows)]
        if seconds is not None:
            times.note(len(rows), drafted, seconds)
        took = 1.0
        if drafted and (time := times.of(len(rows))) is not None:
            took = time(drafted)
        for row in rows:
            if row.copying is not None:
                made = 1 + (drafts[row].accepted if row in drafts else 0)
                row.copying.balance.note(made, took)

    def failed(self, drafts: Drafts, error: Exception) -> None:
        """A step that verified drafts failed, and is computed again without them."""
        log.warning(
            "a step with drafts failed (%s): these requests go on without any", type(error).__name__, exc_info=error
        )
        for row in drafts:
            row.copying, row.may_copy = None, False

    def _candidate(self, row: Row) -> Candidate:
        if not row.may_copy:
            return Candidate((), NOT_COPYING)
        if row.copying is None:
            row.copying = Copying(PromptLookup([*row.ticket.prepared.ids, *row.tokens]))
        # The step makes one token more than are drafted; what the context or the request has no room for is of no use.
        context = self._forward.length - row.length - 1
        return row.copying.candidate(min(context, row.ticket.sampling.max_new_tokens - len(row.tokens) - 1))


def _is_greedy(rows: Sequence[Row]) -> bool:
    return all(row.stateless for row in rows)
