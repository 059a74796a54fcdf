"""Who the engine's time was for: shared out over the requests that it computed, and over the causes that others waited.

A step's time is shared out by the tokens in it: one of a prompt, or of a draft, counts as much as the next one of an
answer. In a flat batch that is what they cost, as all go through the same matmuls; what a step costs however few tokens
it has (reading the weights) is so carried by all in it alike. A tower's call is shared out by the size of the pieces in
it.
"""

from collections.abc import Iterable, Sequence

from ams_pod.engines.builtin.model.batch import Chunk
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.speculation import Drafts
from ams_pod.engines.port import EngineCounters, Ticket
from ams_pod.shares import FairShares
from ams_pod.waits import Cause


def share_out(parts: Sequence[tuple[Ticket, float]], seconds: float, shares: FairShares) -> None:
    """Put `seconds` on the tickets' accounts, and on those of their keys, in proportion to their parts."""
    total = sum(part for _, part in parts)
    if not total:
        return
    each = seconds / total
    for ticket, part in parts:
        ticket.compute_seconds += part * each
        shares.charge(ticket.share, part * each)


def note_work(
    counters: EngineCounters,
    decoding: Sequence[Row],
    chunked: Sequence[tuple[Row, Chunk]],
    drafts: Drafts,
    seconds: float,
) -> None:
    """Put a step's tokens and its time on the accounts of keys."""
    drafted = sum(len(draft.tokens) for draft in drafts.values())
    total = len(decoding) + drafted + sum(len(chunk.ids) for _, chunk in chunked)
    if not total:
        return
    each = seconds / total
    for row in decoding:
        work = counters.work_of(row.ticket.share.key)
        draft = drafts.get(row)
        work.answer_tokens += 1 if draft is None else 1 + draft.accepted
        work.answer_seconds += each if draft is None else each * (1 + len(draft.tokens))
    for row, chunk in chunked:
        work = counters.work_of(row.ticket.share.key)
        work.prompt_tokens += len(chunk.ids)
        work.prompt_seconds += each * len(chunk.ids)


def note_media(counters: EngineCounters, call: Sequence[tuple[Ticket, float]], seconds: float) -> None:
    """Put the time of a tower's call on the accounts of keys."""
    total = sum(size for _, size in call)
    for ticket, size in call if total else ():
        counters.work_of(ticket.share.key).media_seconds += seconds * size / total


def step_parts(
    decoding: Sequence[Row], chunked: Sequence[tuple[Row, Chunk]], drafts: Drafts
) -> list[tuple[Ticket, float]]:
    """Tokens of each request in a step."""
    parts = [(row.ticket, 1.0 + len(drafts[row].tokens) if row in drafts else 1.0) for row in decoding]
    return parts + [(row.ticket, float(len(chunk.ids))) for row, chunk in chunked]


def note_waits(
    chunked: Sequence[tuple[Row, Chunk]], reading: Iterable[Row], waiting: Iterable[Row], full: bool, now: float
) -> None:
    """Why prompts that are not read yet weren't, at the end of a step. `full`: there was no slot for those waiting."""
    read = {id(row) for row, _ in chunked}
    keys = {row.ticket.share.key for row, _ in chunked}
    for row, _ in chunked:
        if not row.tokens or len(row.tokens) == 1:
            row.ticket.waits.note("reading", now)
    for has_slot, rows in ((True, reading), (False, waiting)):
        for row in rows:
            if id(row) in read or row.tokens:
                continue
            own = row.ticket.share.key in keys
            cause: Cause = "own-key" if own else "slot" if full and not has_slot else "others"
            row.ticket.waits.note(cause, now)
