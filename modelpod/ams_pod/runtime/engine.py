"""What the compute thread does: admit requests, run one step after another, hand out tokens.

Continuous batching: a request joins between two steps and leaves at the end of one. The compute thread owns the
forward pass and its cache; other threads only append to the inbox and set flags. Media go through the towers between
steps, one bounded call at a time, so that neither running requests nor new ones without media wait for more than that.
"""

import collections
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ams_pod.runtime.batch import Batch, Chunk, Forward
from ams_pod.runtime.interface import EngineCounters, EngineLoad, Event, Finish, Prepared, Publish, Sampling, Ticket
from ams_pod.runtime.sampling import RowSampler, sample
from ams_pod.runtime.schedule import chunk_budget, close_ranks, share_budget
from ams_pod.runtime.towers import Arrival, Embedder, Prompt, Towers

_GAP_SECONDS = 0.2  # what a prompt may add to the time between two tokens of a running request

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Row:
    """A request with a place in the batch. `read` tokens of its prompt are cached, then `made` new ones."""

    ticket: Ticket
    sampler: RowSampler
    read: int = 0
    made: int = 0
    token: int = -1  # to be fed at the next step
    done: bool = False
    prompt: Prompt | None = None  # until it is read
    delta: int = 0  # from a token's index to its rope position
    alone: bool = False  # a step that read its prompt and others' failed

    @property
    def cached(self) -> int:
        """Tokens in the cache: the last made one is fed only by the next step."""
        return self.read + max(0, self.made - 1)


class Engine:
    """Runs requests through a `Forward`. `publish` is called from the compute thread, once a step.

    `embedder` makes prompts of requests with media; without one they are read by their token ids.
    """

    def __init__(
        self, forward: Forward, stop_tokens: frozenset[int], publish: Publish, embedder: Embedder | None = None
    ) -> None:
        self.counters = EngineCounters()
        self._forward = forward
        self._stop_tokens = stop_tokens
        self._publish = publish
        self._inbox: collections.deque[Ticket] = collections.deque()
        self._towers = Towers(embedder) if embedder is not None else None
        self._waiting: collections.deque[_Row] = collections.deque()
        self._rows: list[_Row] = []
        self._partial: _Row | None = None
        self._prefill_seconds_per_token: float | None = None
        self._step_seconds = 0.0
        self._wake = threading.Event()
        self._stopped = False
        self._load = EngineLoad(0, 0, 0, forward.max_rows * forward.length)

    def submit(self, prepared: Prepared, sampling: Sampling, sink: object) -> Ticket:
        """Queue a request; its events arrive through `publish`. The prompt must fit the context."""
        ticket = Ticket(prepared, sampling, sink, time.monotonic())
        self._inbox.append(ticket)
        self._wake.set()
        return ticket

    def load(self) -> EngineLoad:
        """As of the last step."""
        return self._load

    def stop(self) -> None:
        """Make `run` return after its step."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """Step until `stop`; requests that are left then end with `cancelled`. For the compute thread."""
        while not self._stopped:
            self._wake.clear()
            if not self.step():
                self._wake.wait()
        everyone = [*self._rows, *([self._partial] if self._partial else []), *self._waiting]
        tickets = [row.ticket for row in everyone] + (self._towers.tickets() if self._towers else [])
        self._publish([Event(ticket, None, "cancelled") for ticket in tickets])

    def step(self) -> bool:
        """Admit, compute one token for everyone, publish; then one call of a tower. False if there was nothing to do.

        The tower comes last, so that what arrives meanwhile is admitted right behind it.
        """
        started = time.perf_counter()
        events: list[Event] = []
        self._admit(events)
        self._evict()
        begun = self._partial
        chunked = self._plan_chunks()
        computing = bool(self._rows or chunked)
        if computing:
            self._compute(chunked, events)
            self._account(chunked, time.perf_counter() - started)
        self._note_load()
        if events:
            self._publish(events)
        # A prompt that takes several steps has waited for a tower when it began, and doesn't wait again in between.
        reading_on = self._partial is not None and (begun is None or begun is self._partial)
        return (not reading_on and self._encode()) or computing

    def _encode(self) -> bool:
        """One call of a tower, unless as many prompts are ready as there can be rows."""
        if not self._towers or sum(row.prompt is not None for row in self._waiting) >= self._forward.max_rows:
            return False
        started = time.perf_counter()
        arrivals = self._towers.step()
        self.counters.tower_calls += 1
        self.counters.tower_seconds += time.perf_counter() - started
        events: list[Event] = []
        for arrival in arrivals:
            self._arrive(arrival, events)
        if events:
            self._publish(events)
        return True

    def _arrive(self, arrival: Arrival, events: list[Event]) -> None:
        ticket = arrival.ticket
        if arrival.prompt is None:
            self._fail_tower(ticket, arrival.error, events)
            return
        ticket.prepared = replace(ticket.prepared, media=None)  # it can be large, and the prompt holds all of it
        row = _Row(ticket, RowSampler(ticket.sampling, ticket.prepared.ids))
        row.prompt, row.delta = arrival.prompt, arrival.prompt.delta
        self._waiting.append(row)

    def _admit(self, events: list[Event]) -> None:
        while self._inbox:
            ticket = self._inbox.popleft()
            if self._towers is not None and ticket.prepared.media is not None:
                self._towers.enter(ticket)
            else:
                self._waiting.append(_Row(ticket, RowSampler(ticket.sampling, ticket.prepared.ids)))
        if self._towers:
            events.extend(Event(ticket, None, "cancelled") for ticket in self._towers.remove_cancelled())
        if any(row.ticket.cancelled for row in self._waiting):
            events.extend(Event(row.ticket, None, "cancelled") for row in self._waiting if row.ticket.cancelled)
            self._waiting = collections.deque(row for row in self._waiting if not row.ticket.cancelled)
        for row in (*self._rows, *((self._partial,) if self._partial else ())):
            if row.ticket.cancelled and not row.done:
                row.done = True
                events.append(Event(row.ticket, None, "cancelled"))

    def _evict(self) -> None:
        """Drop rows that are done; a half-read prompt keeps its place behind the last row."""
        before = len(self._rows)
        partial = self._partial
        if partial is not None and partial.done:
            partial = self._partial = None
        leaving = [row.done for row in self._rows]
        if not any(leaving):
            return
        order = close_ranks(leaving)
        self._rows = [self._rows[index] for index in order]
        self._forward.compact(
            order, [row.cached for row in self._rows], None if partial is None else (before, partial.read)
        )

    def _plan_chunks(self) -> list[tuple[_Row, Chunk]]:
        """Which prompts are read in this step, and how far."""
        queue = [self._partial] if self._partial is not None else []
        free = self._forward.max_rows - len(self._rows)
        queue.extend(row for row, _ in zip(self._waiting, range(free), strict=False))
        queue = _until_alone(queue)
        budget = chunk_budget(len(self._rows), self._prefill_seconds_per_token, _GAP_SECONDS)
        shares = share_budget([len(row.ticket.prepared.ids) - row.read for row in queue], free, budget)
        return [
            (row, _chunk(row, len(self._rows) + index, row.read + count))
            for index, (row, count) in enumerate(zip(queue, shares, strict=False))
        ]

    def _compute(self, chunked: Sequence[tuple[_Row, Chunk]], events: list[Event]) -> None:
        for row, _ in chunked:
            if row is not self._partial:
                self._waiting.popleft()
            if row.ticket.started_at is None:
                row.ticket.started_at = time.monotonic()
        finished = [row for row, chunk in chunked if chunk.last]
        rows = [*self._rows, *finished]
        batch = Batch(
            tokens=[row.token for row in self._rows],
            lengths=[row.cached for row in self._rows],
            deltas=[row.delta for row in self._rows],
            chunks=[chunk for _, chunk in chunked],
        )
        try:
            tokens = sample(self._forward.step(batch), [row.sampler for row in rows]) if rows or chunked else []
        except Exception as error:
            if chunked:
                self._fail_reading(error, [row for row, _ in chunked], events)
            else:
                self._fail_decoding(error, events)
            return
        self._rows = rows
        self._partial = None
        for row, chunk in chunked:
            row.read = chunk.end
            if chunk.last:
                row.prompt = None
            else:
                self._partial = row
        for row, token in zip(rows, tokens, strict=True):
            events.append(self._accept(row, token))

    def _accept(self, row: _Row, token: int) -> Event:
        sampling = row.ticket.sampling
        row.token = token
        row.made += 1
        row.sampler.accept(token)
        finish: Finish | None = None
        if token in self._stop_tokens and not sampling.ignore_eos:
            finish = "stop"
        elif row.made >= sampling.max_new_tokens or row.read + row.made >= self._forward.length:
            finish = "length"
        row.done = finish is not None
        return Event(row.ticket, token, finish)

    def _fail_tower(self, ticket: Ticket, error: Exception | None, events: list[Event]) -> None:
        """A tower failed on this request's media."""
        log.error("a request's media could not be encoded", exc_info=error)
        events.append(Event(ticket, None, "failed", error))

    def _fail_reading(self, error: Exception, reading: Sequence[_Row], events: list[Event]) -> None:
        """A step that read prompts failed, and they are the suspects: one fails, several are read again one by one."""
        self._partial = None
        if len(reading) == 1:
            log.error("a prompt could not be read beside %d rows", len(self._rows), exc_info=error)
            events.append(Event(reading[0].ticket, None, "failed", error))
            return
        log.warning("a step with %d prompts failed (%s): they are read one by one", len(reading), type(error).__name__)
        for row in reversed(reading):
            row.read, row.alone = 0, True
            self._waiting.appendleft(row)

    def _fail_decoding(self, error: Exception, events: list[Event]) -> None:
        """A step of nothing but rows failed: nobody knows whose fault it is, and their cache is lost."""
        log.error("a step failed with %d rows", len(self._rows), exc_info=error)
        events.extend(Event(row.ticket, None, "failed", error) for row in self._rows)
        self._rows = []
        self._forward.reset()

    def _account(self, chunked: Sequence[tuple[_Row, Chunk]], seconds: float) -> None:
        counters = self.counters
        read = sum(len(chunk.ids) for _, chunk in chunked)
        counters.steps += 1
        counters.busy_seconds += seconds
        counters.prefill_tokens += read
        counters.decode_tokens += len(self._rows)
        if not chunked:
            self._step_seconds = seconds
        elif read >= 16:
            cost = max(0.0, seconds - (self._step_seconds if self._rows else 0.0)) / read
            known = self._prefill_seconds_per_token
            self._prefill_seconds_per_token = cost if known is None else 0.7 * known + 0.3 * cost

    def _note_load(self) -> None:
        cached = sum(row.cached for row in self._rows) + (self._partial.read if self._partial else 0)
        running = sum(not row.done for row in self._rows) + (self._partial is not None)
        waiting = len(self._waiting) + len(self._inbox) + (len(self._towers) if self._towers else 0)
        self._load = EngineLoad(running, waiting, cached, self._forward.max_rows * self._forward.length)


def _until_alone(queue: Sequence[_Row]) -> list[_Row]:
    """The prompts that may be read in one step: a suspect goes alone."""
    taken: list[_Row] = []
    for row in queue:
        if row.alone and taken:
            break
        taken.append(row)
        if row.alone:
            break
    return taken


def _chunk(row: _Row, slot: int, end: int) -> Chunk:
    """The row's prompt from where it was read to `end`, to be read into `slot`."""
    ids, prompt, start = row.ticket.prepared.ids, row.prompt, row.read
    return Chunk(
        slot,
        start,
        ids[start:end],
        last=end == len(ids),
        embeds=prompt.embeds[start:end] if prompt is not None else None,
        positions=prompt.positions[:, start:end] if prompt is not None and prompt.positions is not None else None,
    )
