"""What the compute thread does: admit requests, run one step after another, hand out tokens.

Continuous batching: a request joins between two steps and leaves at the end of one. The compute thread owns the
forward pass and its cache; other threads only append to the inbox and set flags.
"""

import collections
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ams_pod.runtime.batch import Batch, Chunk, Forward
from ams_pod.runtime.interface import EngineCounters, EngineLoad, Event, Finish, Prepared, Publish, Sampling, Ticket
from ams_pod.runtime.sampling import RowSampler, sample
from ams_pod.runtime.schedule import chunk_budget, close_ranks, share_budget

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

    @property
    def cached(self) -> int:
        """Tokens in the cache: the last made one is fed only by the next step."""
        return self.read + max(0, self.made - 1)


class Engine:
    """Runs requests through a `Forward`. `publish` is called from the compute thread, once a step."""

    def __init__(self, forward: Forward, stop_tokens: frozenset[int], publish: Publish) -> None:
        self.counters = EngineCounters()
        self._forward = forward
        self._stop_tokens = stop_tokens
        self._publish = publish
        self._inbox: collections.deque[Ticket] = collections.deque()
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
        self._publish([Event(row.ticket, None, "cancelled") for row in everyone])

    def step(self) -> bool:
        """Admit, compute one token for everyone, publish. False if there was nothing to do."""
        started = time.perf_counter()
        events: list[Event] = []
        self._admit(events)
        self._evict()
        chunked = self._plan_chunks()
        if not self._rows and not chunked:
            self._note_load()
            if events:
                self._publish(events)
            return False
        self._compute(chunked, events)
        self._account(chunked, time.perf_counter() - started)
        self._note_load()
        self._publish(events)
        return True

    def _admit(self, events: list[Event]) -> None:
        while self._inbox:
            ticket = self._inbox.popleft()
            self._waiting.append(_Row(ticket, RowSampler(ticket.sampling, ticket.prepared.ids)))
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
        budget = chunk_budget(len(self._rows), self._prefill_seconds_per_token, _GAP_SECONDS)
        shares = share_budget([len(row.ticket.prepared.ids) - row.read for row in queue], free, budget)
        planned = []
        for index, (row, count) in enumerate(zip(queue, shares, strict=False)):
            ids = row.ticket.prepared.ids
            end = row.read + count
            planned.append((row, Chunk(len(self._rows) + index, row.read, ids[row.read : end], end == len(ids))))
        return planned

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
            deltas=[0] * len(self._rows),
            chunks=[chunk for _, chunk in chunked],
        )
        try:
            tokens = sample(self._forward.step(batch), [row.sampler for row in rows]) if rows or chunked else []
        except Exception as error:
            self._contain(error, [row for row, _ in chunked], events)
            return
        self._rows = rows
        self._partial = None
        for row, chunk in chunked:
            row.read = chunk.end
            if not chunk.last:
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

    def _contain(self, error: Exception, reading: Sequence[_Row], events: list[Event]) -> None:
        """A step failed: the prompts that were being read are the suspects; without any, everyone has failed."""
        log.error("a step failed with %d rows and %d prompts", len(self._rows), len(reading), exc_info=error)
        if reading:
            self._partial = None
            events.extend(Event(row.ticket, None, "failed", error) for row in reading)
            return
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
        self._load = EngineLoad(running, len(self._waiting) + len(self._inbox), cached,
                                self._forward.max_rows * self._forward.length)  # fmt: skip
