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
from dataclasses import replace

from torch import Tensor

from ams_pod.runtime.batch import Batch, Chunk, Forward
from ams_pod.runtime.interface import EngineCounters, EngineLoad, Event, Finish, Prepared, Publish, Sampling, Ticket
from ams_pod.runtime.ladder import Stage
from ams_pod.runtime.out_of_memory import is_device_lost, is_out_of_memory, let_go, release
from ams_pod.runtime.row import Row, readable
from ams_pod.runtime.sampling import sample
from ams_pod.runtime.schedule import Pace, chunk_budget, close_ranks, share_budget
from ams_pod.runtime.setbacks import Relief, Setbacks
from ams_pod.runtime.towers import Arrival, Embedder, Towers

_GAP_SECONDS = 0.2  # what a prompt may add to the time between two tokens of a running request

log = logging.getLogger(__name__)


class Engine:
    """Runs requests through a `Forward`. `publish` is called from the compute thread, once a step.

    `embedder` makes prompts of requests with media; without one they are read by their token ids. `relief` is what may
    be done when memory runs out.
    """

    def __init__(
        self,
        forward: Forward,
        stop_tokens: frozenset[int],
        publish: Publish,
        embedder: Embedder | None = None,
        relief: Relief | None = None,
    ) -> None:
        self.counters = EngineCounters()
        self._setbacks = Setbacks(relief or Relief(), self.counters)
        self._forward = forward
        self._stop_tokens = stop_tokens
        self._publish = publish
        self._inbox: collections.deque[Ticket | Row] = collections.deque()
        self._towers = Towers(embedder) if embedder is not None else None
        self._waiting: collections.deque[Row] = collections.deque()
        self._rows: list[Row] = []
        self._partial: Row | None = None
        self._pace = Pace()
        self._wake = threading.Event()
        self._stopped = False
        self._asked_to_free = False
        self.most_cached = 0  # tokens at one time since the last `free_memory`
        self._load = EngineLoad(0, 0, 0, forward.max_rows * forward.length)

    def submit(self, prepared: Prepared, sampling: Sampling, sink: object) -> Ticket:
        """Queue a request; its events arrive through `publish`. The prompt must fit the context."""
        ticket = Ticket(prepared, sampling, sink, time.monotonic())
        self._inbox.append(ticket)
        self._wake.set()
        return ticket

    def adopt(self, row: Row) -> None:
        """Take on the rest of a request that another engine had no memory for."""
        self._inbox.append(row)
        self._wake.set()

    def free_memory(self) -> None:
        """Give back what no running request needs, before the next step."""
        self._asked_to_free = True
        self._wake.set()

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
        self.end()

    def end(self) -> None:
        """All that is left ends with `cancelled`."""
        if (lane := self._setbacks.relief.lane) is not None:
            lane.stop()
        self._publish([Event(ticket, None, "cancelled") for ticket in self._everyone()])

    def _everyone(self) -> list[Ticket]:
        """Whose request hasn't ended."""
        rows = [*self._rows, *([self._partial] if self._partial else []), *self._waiting]
        arriving = [entry if isinstance(entry, Ticket) else entry.ticket for entry in self._inbox]
        in_towers = self._towers.tickets() if self._towers else []
        return [*(row.ticket for row in rows if not row.done), *in_towers, *arriving]

    def step(self) -> bool:
        """Admit, compute one token for everyone, publish; then one call of a tower. False if there was nothing to do.

        The tower comes last, so that what arrives meanwhile is admitted right behind it.
        """
        started = time.perf_counter()
        events: list[Event] = []
        self._admit(events)
        self._evict()
        self._free()
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
        if not self._towers:
            return False
        if self._towers.waits_for_idle:
            if self._rows or self._partial:
                return False
        elif sum(row.prompt is not None for row in self._waiting) >= self._forward.max_rows:
            return False
        started = time.perf_counter()
        arrivals = self._towers.step()
        self.counters.tower_calls += 1
        self.counters.tower_seconds += time.perf_counter() - started
        events: list[Event] = []
        for arrival in arrivals:
            self._arrive(arrival, events)
        if self._towers.divided:
            release(self._setbacks.relief.device)
            for ticket in self._towers.divided:
                self._setbacks.step_down(ticket, "tower", others=True)
            self._towers.divided.clear()
        if events:
            self._publish(events)
        return True

    def _arrive(self, arrival: Arrival, events: list[Event]) -> None:
        ticket = arrival.ticket
        if arrival.prompt is None:
            self._fail_tower(ticket, arrival.error, events)
            return
        ticket.prepared = replace(ticket.prepared, media=None)  # it can be large, and the prompt holds all of it
        self._waiting.append(Row.of(ticket, arrival.prompt))

    def _admit(self, events: list[Event]) -> None:
        while self._inbox:
            entry = self._inbox.popleft()
            ticket = entry if isinstance(entry, Ticket) else entry.ticket
            if self._towers is not None and ticket.prepared.media is not None:
                self._towers.enter(ticket)
            else:
                self._waiting.append(entry if isinstance(entry, Row) else Row.of(entry))
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
        failure: Exception | None = None
        try:
            self._forward.compact(
                order, [row.cached for row in self._rows], None if partial is None else (before, partial.read)
            )
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = error
        if failure is not None:
            self._start_over([*self._rows, *([partial] if partial else [])], failure)

    def _free(self) -> None:
        if self._asked_to_free:
            self._asked_to_free, self.most_cached = False, 0
            self._forward.release(len(self._rows) + (self._partial is not None))
            release(self._setbacks.relief.device)

    def _plan_chunks(self) -> list[tuple[Row, Chunk]]:
        """Which prompts are read in this step, and how far."""
        queue = [self._partial] if self._partial is not None else []
        free = self._forward.max_rows - len(self._rows)
        if not (self._towers and self._towers.waits_for_idle):
            queue.extend(row for row, _ in zip(self._waiting, range(free), strict=False))
        queue = readable(queue, bool(self._rows))
        budget = chunk_budget(len(self._rows), self._pace.seconds_per_token, _GAP_SECONDS)
        shares = share_budget([len(row.ids) - row.read for row in queue], free, budget)
        return [
            (row, row.chunk(len(self._rows) + index, row.next_end(row.read + count)))
            for index, (row, count) in enumerate(zip(queue, shares, strict=False))
        ]

    def _compute(self, chunked: Sequence[tuple[Row, Chunk]], events: list[Event]) -> None:
        for row, _ in chunked:
            if row is not self._partial:
                self._waiting.popleft()
            if row.ticket.started_at is None:
                row.ticket.started_at = time.monotonic()
        finished = [row for row, chunk in chunked if chunk.last]
        rows = [*self._rows, *finished]
        batch = Batch(
            tokens=[row.tokens[-1] for row in self._rows],
            lengths=[row.cached for row in self._rows],
            deltas=[row.delta for row in self._rows],
            chunks=[chunk for _, chunk in chunked],
        )
        logits: Tensor | None = None
        failure: Exception | None = None
        try:
            logits = self._forward.step(batch)
            tokens = sample(logits, [row.sampler for row in rows])
        except Exception as error:
            failure = error
        if failure is not None:
            computed, logits = logits is not None, None
            self._recover(failure, computed, [row for row, _ in chunked], events)
            return
        self._rows = rows
        self._partial = None
        for row, chunk in chunked:
            row.read = chunk.end
            if chunk.last:
                row.alone = row.solo = False
            else:
                self._partial = row
        for row, token in zip(rows, tokens, strict=True):
            events.append(self._accept(row, token))

    def _accept(self, row: Row, token: int) -> Event:
        sampling = row.ticket.sampling
        row.tokens.append(token)
        row.sampler.accept(token)
        finish: Finish | None = None
        if token in self._stop_tokens and not sampling.ignore_eos:
            finish = "stop"
        elif len(row.tokens) >= sampling.max_new_tokens or row.length >= self._forward.length:
            finish = "length"
        row.done = finish is not None
        return Event(row.ticket, token, finish)

    def _recover(self, error: Exception, computed: bool, reading: Sequence[Row], events: list[Event]) -> None:
        """A step failed, after all was `computed` or before. Nothing of it was said yet."""
        if is_device_lost(error):
            tickets = dict.fromkeys([*(row.ticket for row in reading), *self._everyone()])
            self._publish([Event(ticket, None, "failed", error) for ticket in tickets])
            raise error
        if not is_out_of_memory(error):
            self._partial = None
            if reading:
                self._fail_reading(error, reading, events)
            else:
                self._fail_decoding(error, events)
        elif computed:
            self._start_over([*self._rows, *reading], error)
        elif reading:
            self._partial = None
            self._shrink_reading(error, reading, events)
        else:
            self._shrink_decoding(error, events)

    def _start_over(self, rows: Sequence[Row], error: Exception) -> None:
        """Nobody knows what the cache holds: all are read again, one by one."""
        self._let_go(error)
        self._rows, self._partial = [], None
        self._forward.reset()
        self._set_aside([row for row in rows if not row.done], "decode")

    def _shrink_reading(self, error: Exception, reading: Sequence[Row], events: list[Event]) -> None:
        """Memory ran out where prompts were read: they are read one by one, then with nothing else in the batch."""
        self._let_go(error)
        if len(reading) == 1 and not self._rows:
            self._step_down(reading[0], "prefill", events)
        elif len(reading) == 1:
            self._set_aside(reading, "prefill")
        else:
            for row in reversed(reading):
                self._setbacks.step_down(row.ticket, "prefill", others=True)
                row.read, row.alone = 0, True
                self._waiting.appendleft(row)

    def _shrink_decoding(self, error: Exception, events: list[Event]) -> None:
        """Memory ran out in a step of nothing but rows: the newest is set aside, and the rest goes on."""
        self._let_go(error)
        newest = max(self._rows, key=lambda row: row.ticket.submitted_at)
        others = len(self._rows) > 1
        newest.done = True
        self._evict()
        newest.done = False
        if others:
            self._set_aside([newest], "decode")
        else:
            self._step_down(newest, "decode", events)

    def _set_aside(self, rows: Sequence[Row], stage: Stage) -> None:
        """To be read again when nothing else is in the batch, before anybody new."""
        for row in sorted(rows, key=lambda row: row.ticket.submitted_at, reverse=True):
            self._setbacks.step_down(row.ticket, stage, others=True)
            row.set_aside()
            self._waiting.appendleft(row)

    def _step_down(self, row: Row, stage: Stage, events: list[Event]) -> None:
        """Memory ran out for a request with nothing else in the batch: what its fallbacks allow."""
        ticket = row.ticket
        rung = self._setbacks.step_down(ticket, stage, streamed=bool(row.tokens))
        lane = self._setbacks.relief.lane
        if rung == "cpu" and lane is not None:
            row.set_aside()
            row.solo = False
            lane.take(row)
        elif rung == "text-only" and ticket.prepared.text_only is not None:
            try:
                ticket.prepared = ticket.prepared.text_only()
            except Exception as error:  # a template may refuse messages without media
                events.append(Event(ticket, None, "failed", error))
                return
            self._waiting.appendleft(Row.of(ticket))
        elif rung == "simplified":
            events.append(Event(ticket, None, "stop"))
        else:
            refusal = self._setbacks.refusal(ticket, stage, self._forward.bytes_per_token)
            events.append(Event(ticket, None, "failed", refusal))

    def _fail_tower(self, ticket: Ticket, error: Exception | None, events: list[Event]) -> None:
        """A tower failed on this request's media, and on no other's."""
        if error is not None and is_device_lost(error):
            self._publish([Event(each, None, "failed", error) for each in (ticket, *self._everyone())])
            raise error
        if error is None or not is_out_of_memory(error):
            log.error("a request's media could not be encoded", exc_info=error)
            events.append(Event(ticket, None, "failed", error))
            return
        self._let_go(error)
        if self._towers is not None and (self._rows or self._partial):
            self._setbacks.step_down(ticket, "tower", others=True)
            self._towers.enter_solo(ticket)
        else:
            self._step_down(Row.of(ticket), "tower", events)

    def _let_go(self, error: Exception) -> None:
        let_go(error)
        release(self._setbacks.relief.device)

    def _fail_reading(self, error: Exception, reading: Sequence[Row], events: list[Event]) -> None:
        """A step that read prompts failed, and they are the suspects: one fails, several are read again one by one."""
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

    def _account(self, chunked: Sequence[tuple[Row, Chunk]], seconds: float) -> None:
        counters = self.counters
        read = sum(len(chunk.ids) for _, chunk in chunked)
        counters.steps += 1
        counters.busy_seconds += seconds
        counters.prefill_tokens += read
        counters.decode_tokens += len(self._rows)
        self._pace.note(read, bool(self._rows), seconds)

    def _note_load(self) -> None:
        cached = sum(row.cached for row in self._rows) + (self._partial.read if self._partial else 0)
        self.most_cached = max(self.most_cached, cached)
        running = sum(not row.done for row in self._rows) + (self._partial is not None)
        waiting = len(self._waiting) + len(self._inbox) + (len(self._towers) if self._towers else 0)
        self._load = EngineLoad(running, waiting, cached, self._forward.max_rows * self._forward.length)
