"""What the compute thread does: admit requests, run one step after another, hand out tokens.

Continuous batching: a request joins between two steps and leaves at the end of one. The compute thread owns the
forward pass and its cache; other threads only append to the inbox and set flags. Media go through the towers between
steps; a tower's call that takes longer than a moment is interrupted by steps, between two of its layers, so that
neither running requests nor new ones without media wait for it.
"""

import collections
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ams_pod.engines.builtin.memory.out_of_memory import is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.batch import Batch, Chunk, Forward, SlotFailed
from ams_pod.engines.builtin.model.sampling import NotNumbers, sample
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks, OomPolicy
from ams_pod.engines.builtin.scheduler.recovery import Recovery
from ams_pod.engines.builtin.scheduler.row import Row, readable
from ams_pod.engines.builtin.scheduler.schedule import GAP_SECONDS, Pace, chunk_budget, share_budget
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.builtin.towers.queue import Arrival, Embedder, Towers
from ams_pod.engines.port import (
    EngineCounters,
    Finish,
    Occupancy,
    Prepared,
    Publish,
    Sampling,
    Sink,
    Ticket,
    TokenEvent,
)


class EngineCore:
    """Runs requests through a `Forward`. `publish` is called from the compute thread, once a step.

    `embedder` makes prompts of requests with media; without one they are read by their token ids. `fallbacks` is what
    may be done when memory runs out.
    """

    def __init__(
        self,
        forward: Forward,
        stop_tokens: frozenset[int],
        publish: Publish,
        embedder: Embedder | None = None,
        fallbacks: OomFallbacks | None = None,
    ) -> None:
        self.counters = EngineCounters()
        self._oom_policy = OomPolicy(fallbacks or OomFallbacks(), self.counters)
        self._forward = forward
        self._stop_tokens = stop_tokens
        self._publish = publish
        self._inbox: collections.deque[Ticket | Row] = collections.deque()
        self._towers = Towers(embedder) if embedder is not None else None
        self._waiting: collections.deque[Row] = collections.deque()
        self._slots = Slots(forward)
        self._recovery = Recovery(forward, self._slots, self._waiting, self._oom_policy)
        self._pace = Pace()
        self._stepped_at = 0.0  # when the last step ended
        self._stepped_seconds = 0.0  # what steps took, all together
        self._broken: Exception | None = None  # what a step raised that ran within a tower's call
        self._wake = threading.Event()
        self._stopped = False
        self._free_requested = False
        self.most_cached = 0  # tokens at one time since the last `free_memory`
        self._occupancy = Occupancy(0, 0, 0, forward.max_rows * forward.length)

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Sink) -> Ticket:
        """Queue a request; its events arrive through `publish`. The prompt must fit the context."""
        ticket = Ticket(prepared, sampling, sink, time.monotonic())
        self._inbox.append(ticket)
        self._wake.set()
        return ticket

    def adopt(self, row: Row) -> None:
        """Take on the rest of a request that another engine had no memory for."""
        self._inbox.append(row)
        self._wake.set()

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request before the next step."""
        ticket.cancelled = True

    def free_memory(self) -> None:
        """Give back what no running request needs, before the next step."""
        self._free_requested = True
        self._wake.set()

    def occupancy(self) -> Occupancy:
        """As of the last step."""
        return self._occupancy

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
        if (cpu := self._oom_policy.fallbacks.cpu) is not None:
            cpu.stop()
        self._publish([TokenEvent(ticket, None, "cancelled") for ticket in self._everyone()])

    def _everyone(self) -> list[Ticket]:
        """Whose request hasn't ended."""
        rows = [*self._slots.rows(), *self._waiting]
        arriving = [entry if isinstance(entry, Ticket) else entry.ticket for entry in self._inbox]
        in_towers = self._towers.tickets() if self._towers else []
        return [*(row.ticket for row in rows if not row.done), *in_towers, *arriving]

    def step(self) -> bool:
        """Admit, compute one token for everyone, publish; then one call of a tower. False if there was nothing to do.

        The tower comes last, so that what arrives meanwhile is admitted right behind it.
        """
        computed = self._step()
        return self._encode() or computed

    def _step(self) -> bool:
        started = time.perf_counter()
        events: list[TokenEvent] = []
        self._admit(events)
        self._evict()
        self._free()
        chunked = self._plan_chunks()
        running = self._slots.running()
        computing = bool(running or chunked)
        if computing:
            self._compute(running, chunked, events)
            self._account(len(running), chunked, time.perf_counter() - started)
        self._note_occupancy()
        if events:
            self._publish(events)
        self._stepped_at = time.perf_counter()
        self._stepped_seconds += self._stepped_at - started
        return computing

    def _encode(self) -> bool:
        """One call of a tower, unless as many prompts are ready as there can be rows."""
        if not self._towers:
            return False
        if self._towers.waits_for_idle:
            if self._slots:
                return False
        elif sum(row.prompt is not None for row in self._waiting) >= self._forward.max_rows:
            return False
        started, stepped = time.perf_counter(), self._stepped_seconds
        self._stepped_at = started
        arrivals = self._towers.step(self._between)
        if self._broken is not None:
            raise self._broken
        self.counters.tower_calls += 1
        self.counters.tower_seconds += time.perf_counter() - started - (self._stepped_seconds - stepped)
        events: list[TokenEvent] = []
        for arrival in arrivals:
            self._arrive(arrival, events)
        if self._towers.divided:
            release(self._oom_policy.fallbacks.device)
            for ticket in self._towers.divided:
                self._oom_policy.step_down(ticket, "tower", others=True)
            self._towers.divided.clear()
        if events:
            self._publish(events)
        return True

    def _between(self) -> None:
        """Between two layers of a tower: a step, if somebody waits for one and the last was long enough ago.

        Not while a request is encoded that memory ran out for: it is to have all of it.
        """
        if self._towers is None or self._towers.waits_for_idle:
            return
        if not (self._slots or self._waiting or self._inbox):
            return
        if self._oom_policy.fallbacks.device != "cpu":
            torch.cuda.current_stream().synchronize()  # the layers so far are only queued
        if time.perf_counter() - self._stepped_at < GAP_SECONDS:
            return
        try:
            self._step()
        except Exception as error:
            self._broken = error  # the engine's own, not of the media that are encoded
            raise

    def _arrive(self, arrival: Arrival, events: list[TokenEvent]) -> None:
        ticket = arrival.ticket
        if arrival.prompt is None:
            self._fail_tower(ticket, arrival.error, events)
            return
        ticket.prepared = replace(ticket.prepared, media=None)  # it can be large, and the prompt holds all of it
        self._waiting.append(Row.of(ticket, arrival.prompt))

    def _admit(self, events: list[TokenEvent]) -> None:
        while self._inbox:
            entry = self._inbox.popleft()
            ticket = entry if isinstance(entry, Ticket) else entry.ticket
            if self._towers is not None and ticket.prepared.media is not None:
                self._towers.enter(ticket)
            else:
                self._waiting.append(entry if isinstance(entry, Row) else Row.of(entry))
        if self._towers:
            events.extend(TokenEvent(ticket, None, "cancelled") for ticket in self._towers.remove_cancelled())
        if any(row.ticket.cancelled for row in self._waiting):
            events.extend(TokenEvent(row.ticket, None, "cancelled") for row in self._waiting if row.ticket.cancelled)
            staying = [row for row in self._waiting if not row.ticket.cancelled]
            self._waiting.clear()
            self._waiting.extend(staying)
        for row in self._slots.rows():
            if row.ticket.cancelled and not row.done:
                row.done = True
                events.append(TokenEvent(row.ticket, None, "cancelled"))

    def _evict(self) -> None:
        failure: Exception | None = None
        try:
            self._slots.close_ranks()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = error
        if failure is not None:
            self._recovery.start_over(failure)

    def _free(self) -> None:
        if self._free_requested:
            self._free_requested, self.most_cached = False, 0
            self._forward.release(len(self._slots))
            release(self._oom_policy.fallbacks.device)

    def _plan_chunks(self) -> list[tuple[Row, Chunk]]:
        """Which prompts are read in this step, and how far. Those that are begun leave the queue for a slot."""
        running = bool(self._slots.running())
        begun = self._slots.reading()
        queue = list(begun)
        if not (self._towers and self._towers.waits_for_idle):
            queue.extend(row for row, _ in zip(self._waiting, range(self._slots.free), strict=False))
        queue = readable(queue, running)
        if self._forward.whole_prompts:
            queue = queue[:1]  # one in a step: all who are running wait for it
            budget = sum(len(row.ids) for row in queue)
        else:
            budget = chunk_budget(running, self._pace.seconds_per_token)
        planned = []
        for row, count in zip(queue, share_budget([len(row.ids) - row.read for row in queue], budget), strict=True):
            if not count:
                continue
            if row not in begun:
                self._waiting.remove(row)
                self._slots.take(row)
            planned.append((row, row.chunk(row.next_end(row.read + count))))
        return planned

    def _compute(self, running: Sequence[Row], chunked: Sequence[tuple[Row, Chunk]], events: list[TokenEvent]) -> None:
        for row, _ in chunked:
            if row.ticket.started_at is None:
                row.ticket.started_at = time.monotonic()
        rows = [*running, *(row for row, chunk in chunked if chunk.last)]
        batch = Batch(
            slots=[row.slot for row in running],
            tokens=[row.tokens[-1] for row in running],
            lengths=[row.cached for row in running],
            deltas=[row.delta for row in running],
            chunks=[chunk for _, chunk in chunked],
        )
        logits: Tensor | None = None
        failure: Exception | None = None
        failed_slot: int | None = None
        try:
            logits = self._forward.step(batch)
            tokens = sample(logits, [row.sampler for row in rows])
        except SlotFailed as error:
            failure, failed_slot = error.cause, error.slot
        except Exception as error:
            failure = error
        if failure is not None:
            computed, logits = logits is not None, None
            if is_device_lost(failure):
                self._give_up(failure)
            if failed_slot is not None:
                self._recovery.slot_failed(failure, failed_slot, events)
            else:
                self._recovery.step_failed(failure, computed, [row for row, _ in chunked], events)
            return
        for row, chunk in chunked:
            row.read = chunk.end
            if chunk.last:
                row.own_prefill = row.own_batch = False
        for row, token in zip(rows, tokens, strict=True):
            events.append(self._accept(row, token) if token is not None else self._refuse(row))

    def _refuse(self, row: Row) -> TokenEvent:
        row.done = True
        return TokenEvent(row.ticket, None, "failed", NotNumbers())

    def _accept(self, row: Row, token: int) -> TokenEvent:
        sampling = row.ticket.sampling
        row.tokens.append(token)
        row.sampler.accept(token)
        finish: Finish | None = None
        if token in self._stop_tokens and not sampling.ignore_eos:
            finish = "stop"
        elif len(row.tokens) >= sampling.max_new_tokens or row.length >= self._forward.length:
            finish = "length"
        row.done = finish is not None
        return TokenEvent(row.ticket, token, finish)

    def _fail_tower(self, ticket: Ticket, error: Exception | None, events: list[TokenEvent]) -> None:
        if error is not None and is_device_lost(error):
            self._give_up(error, ticket)
        if self._recovery.tower_failed(ticket, error, events) and self._towers is not None:
            self._towers.enter_when_idle(ticket)

    def _give_up(self, error: Exception, *tickets: Ticket) -> None:
        """Nothing that this process computes from now on can succeed."""
        self._publish([TokenEvent(ticket, None, "failed", error) for ticket in (*tickets, *self._everyone())])
        raise error

    def _account(self, running: int, chunked: Sequence[tuple[Row, Chunk]], seconds: float) -> None:
        counters = self.counters
        read = sum(len(chunk.ids) for _, chunk in chunked)
        counters.steps += 1
        counters.busy_seconds += seconds
        counters.prefill_tokens += read
        counters.decode_tokens += running
        self._pace.note(read, running > 0, seconds)

    def _note_occupancy(self) -> None:
        rows = self._slots.rows()
        cached = sum(row.cached for row in rows)
        self.most_cached = max(self.most_cached, cached)
        waiting = len(self._waiting) + len(self._inbox) + (len(self._towers) if self._towers else 0)
        running = sum(not row.done for row in rows)
        self._occupancy = Occupancy(running, waiting, cached, self._forward.max_rows * self._forward.length)
