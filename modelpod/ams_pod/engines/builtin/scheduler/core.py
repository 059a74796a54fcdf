"""What the compute thread does: admit requests, run one step after another, hand out tokens.

Continuous batching: a request joins between two steps and leaves at the end of one. The compute thread owns the
forward pass and its cache; other threads only append to the inbox and set flags. Media go through the towers between
steps; a tower's call that takes longer than a moment is interrupted by steps, between two of its layers, so that
neither running requests nor new ones without media wait for it. On a CPU a step is interrupted in the same way, for
prompts of keys that are behind all that are in it: see `turns` and `ams_pod.shares` for whose turn it is.
"""

import collections
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ams_pod.engines.builtin.memory.out_of_memory import is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.batch import Forward
from ams_pod.engines.builtin.scheduler.computing import Computation
from ams_pod.engines.builtin.scheduler.metering import (
    note_media,
    note_waits,
    note_work,
    share_out,
    step_parts,
)
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks, OomPolicy
from ams_pod.engines.builtin.scheduler.planning import Chunks, Planner
from ams_pod.engines.builtin.scheduler.recovery import Recovery
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.row_prefixes import RowPrefixes
from ams_pod.engines.builtin.scheduler.schedule import GAP_SECONDS
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.builtin.scheduler.speculation import NO_DRAFTS, Drafts, Speculation
from ams_pod.engines.builtin.scheduler.turns import PUT_OFF_SECONDS
from ams_pod.engines.builtin.towers.queue import Arrival, Embedder, Towers
from ams_pod.engines.port import (
    EngineCounters,
    Occupancy,
    Prepared,
    Publish,
    Sampling,
    Sink,
    Ticket,
    TokenEvent,
)
from ams_pod.shares import EVERYBODY, FairShares, Share

_LOOK_SECONDS = 1.0  # between two looks at how much memory is free


class EngineCore:
    """Runs requests through a `Forward`. `publish` is called from the compute thread, once a step.

    `embedder` makes prompts of requests with media; without one they are read by their token ids. `fallbacks` is what
    may be done when memory runs out. `is_short` tells whether it is about to: what is kept of ended ones goes first.
    `speculate`: tokens may be drafted where it pays, see `speculation`.
    """

    def __init__(
        self,
        forward: Forward,
        stop_tokens: frozenset[int],
        publish: Publish,
        embedder: Embedder | None = None,
        fallbacks: OomFallbacks | None = None,
        is_short: Callable[[], bool] = lambda: False,
        *,
        speculate: bool = False,
    ) -> None:
        self._is_short, self._looked_at = is_short, 0.0
        self.counters = EngineCounters()
        self._oom_policy = OomPolicy(fallbacks or OomFallbacks(), self.counters)
        self._forward = forward
        self._publish = publish
        self._inbox: collections.deque[Ticket | Row] = collections.deque()
        self._shares = FairShares()
        self._towers = Towers(embedder, self._shares) if embedder is not None else None
        self._waiting: collections.deque[Row] = collections.deque()
        self._slots = Slots(forward)
        self._recovery = Recovery(forward, self._slots, self._waiting, self._oom_policy)
        self._prefixes = RowPrefixes(forward.prefixes, self.counters)
        self._computation = Computation(
            forward, self._slots, self._waiting, self._recovery, stop_tokens, self._oom_policy.fallbacks.device,
            self._prefixes,
        )  # fmt: skip
        self._speculation = Speculation(forward, self._slots, self.counters, on=speculate)
        self._planner = Planner(forward, self._slots, self._waiting, self._shares, self._prefixes)
        self._returning: dict[int, Row] = {}  # in the towers once more, by their tickets
        self._computing: set[Share] = set()  # keys of the step that is computed
        self._nested_seconds: float | None = None  # what steps within the step took; None within them and between steps
        if self._oom_policy.fallbacks.device == "cpu":
            forward.between = self._between_layers
        self._stepped_at = 0.0  # when the last step ended
        self._stepped_seconds = 0.0  # what steps took, all together
        self._broken: Exception | None = None  # what a step raised that ran within a tower's call
        self._wake = threading.Event()
        self._stopped = False
        self._failure: Exception | None = None
        self._free_requested = False
        self.most_cached = 0  # tokens at one time since the last `free_memory`
        self._occupancy = Occupancy(0, 0, 0, forward.cache_tokens)

    def submit(
        self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY, cache_salt: str = ""
    ) -> Ticket:
        """Queue a request; its events arrive through `publish`. The prompt must fit the context."""
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share, cache_salt)
        self._inbox.append(ticket)
        self._forward.interrupt()
        self._wake.set()
        return ticket

    def adopt(self, row: Row) -> None:
        """Take on the rest of a request that another engine had no memory for."""
        self._inbox.append(row)
        self._forward.interrupt()
        self._wake.set()

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request before the next step."""
        ticket.cancelled = True

    def free_memory(self) -> None:
        """Give back what no running request needs, before the next step."""
        self._free_requested = True
        self._wake.set()

    def refreshed_counters(self) -> EngineCounters:
        """With what the copy on the CPU computed."""
        if (cpu := self._oom_policy.fallbacks.cpu) is not None:
            self.counters.copy_seconds = cpu.compute_seconds
        return self.counters

    @property
    def cache_tokens(self) -> int:
        """Tokens that fit all running requests together."""
        return self._forward.cache_tokens

    @property
    def prefix_tokens(self) -> int:
        """Tokens that are kept of ended requests."""
        return self._prefixes.tokens

    def occupancy(self) -> Occupancy:
        """As of the last step."""
        return self._occupancy

    def stop(self) -> None:
        """Make `run` return after its step."""
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """Step until `stop`; requests that are left then end with `cancelled`. For the compute thread.

        Raises what `fail` was given.
        """
        while not self._stopped:
            self._wake.clear()
            if not self.step():
                self._wake.wait()
        self.end()
        if self._failure is not None:
            raise self._failure

    def fail(self, error: Exception) -> None:
        """Make `run` end and raise this: what the weights compute can't be trusted any more."""
        self._failure = error
        self.stop()

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
        decoding, chunked = self._plan(started)
        computing = bool(decoding or chunked)
        if computing:
            self._computing = {row.share for row in decoding} | {row.share for row, _ in chunked}
            self._nested_seconds = 0.0
            if not self._occupancy.running:  # a first step that hangs is not to look like an idle engine
                self._note_occupancy()
            drafts = NO_DRAFTS if chunked else self._speculation.drafts(decoding)
            failure: Exception | None = None
            try:
                if not drafts:
                    self._computation.step(decoding, chunked, events)
                elif (failure := self._computation.verify(decoding, drafts, events)) is not None:
                    self._speculation.failed(drafts, failure)
            except Exception as error:
                self._give_up(error)
            finally:
                nested, self._nested_seconds = self._nested_seconds, None
            seconds = time.perf_counter() - started - nested
            self._account(decoding, chunked, drafts, seconds)
            if not chunked:
                self._speculation.note(decoding, drafts, None if nested or failure is not None else seconds)
        self._note_occupancy()
        if events:
            self._publish(events)
        self._stepped_at = time.perf_counter()
        self._stepped_seconds += self._stepped_at - started
        return computing

    def _plan(self, now: float) -> tuple[list[Row], Chunks]:
        admit = not (self._towers and self._towers.waits_for_idle)
        turn = self._planner.turn(now, admit=admit)
        if self._planner.make_way(turn) is not None:
            self.counters.set_aside += 1
            self._evict()
            turn = self._planner.turn(now, admit=admit)
        chunked = self._planner.chunks(turn, now)
        self._return_to_towers()
        if gone := self._planner.make_room(turn.decoding):
            self.counters.preempted += len(gone)
            left = {id(row) for row in gone}
            return (
                [row for row in turn.decoding if id(row) not in left],
                [(row, chunk) for row, chunk in chunked if id(row) not in left],
            )
        return turn.decoding, chunked

    def _between_layers(self) -> None:
        """Within a step: prompts are read at once that came meanwhile, of keys that are behind all that are in it."""
        if not self._inbox or self._nested_seconds is None:
            return
        self._take_inbox()
        spent, self._nested_seconds = self._nested_seconds, None
        try:
            while spent < PUT_OFF_SECONDS and (chunked := self._planner.urgent_chunks(self._computing)):
                started = time.perf_counter()
                events: list[TokenEvent] = []
                self._computation.read_at_once(chunked, events)
                seconds = time.perf_counter() - started
                self._account([], chunked, NO_DRAFTS, seconds)
                spent += seconds
                if events:
                    self._publish(events)
        finally:
            self._nested_seconds = spent
            if self._inbox:  # what came meanwhile interrupted a step within this one, which heeds nobody
                self._forward.interrupt()

    def _encode(self) -> bool:
        """One call of a tower, unless as many prompts are ready as there can be rows."""
        if not self._towers:
            return False
        if self._towers.waits_for_idle:
            if self._slots:
                return False
        elif not self._wants_media():
            return False
        started, stepped = time.perf_counter(), self._stepped_seconds
        self._stepped_at = started
        arrivals = self._towers.step(self._between)
        if self._broken is not None:
            raise self._broken
        self.counters.tower_calls += 1
        seconds = time.perf_counter() - started - (self._stepped_seconds - stepped)
        self.counters.tower_seconds += seconds
        share_out(self._towers.call, seconds, self._shares)
        note_media(self.counters, self._towers.call, seconds)
        self._note_towers(arrivals)
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

    def _wants_media(self) -> bool:
        """Not while as many prompts of the key are ready as there can be rows, nor while one of a key behind it is."""
        assert self._towers is not None
        lead = self._towers.lead
        if self._planner.is_urgent({lead}):
            return False
        ready = sum(row.prompt is not None and row.share.key == lead.key for row in self._waiting)
        return ready < self._forward.max_rows

    def _note_towers(self, arrivals: Sequence[Arrival]) -> None:
        assert self._towers is not None
        now, encoded = time.monotonic(), {id(ticket) for ticket, _ in self._towers.call}
        for ticket in (*self._towers.tickets(), *(arrival.ticket for arrival in arrivals)):
            ticket.waits.note("media-towers" if id(ticket) in encoded else "towers", now)

    def _between(self) -> None:
        """Between two layers of a tower: a step, if somebody waits for one and the last was long enough ago.

        Not while a request is encoded that memory ran out for: it is to have all of it.
        """
        if self._towers is None or self._towers.waits_for_idle:
            return
        if self._inbox:
            self._take_inbox()
        if not (self._slots or self._waiting):
            return
        if self._oom_policy.fallbacks.device != "cpu":
            torch.cuda.current_stream().synchronize()  # the layers so far are only queued
        encoding = {ticket.share for ticket, _ in self._towers.call}
        urgent = self._planner.is_urgent(encoding)
        if not urgent and time.perf_counter() - self._stepped_at < GAP_SECONDS:
            return
        ends = time.perf_counter() + PUT_OFF_SECONDS
        try:
            self._step()
            while urgent and self._planner.is_urgent(encoding) and time.perf_counter() < ends:
                self._step()
        except Exception as error:
            self._broken = error  # the engine's own, not of the media that are encoded
            raise

    def _arrive(self, arrival: Arrival, events: list[TokenEvent]) -> None:
        ticket = arrival.ticket
        row = self._returning.pop(id(ticket), None)
        if arrival.prompt is None:
            self._fail_tower(ticket, arrival.error, events)
            return
        ticket.prepared = replace(ticket.prepared, media=None)  # it can be large, and the prompt holds all of it
        if row is None:
            row = Row.of(ticket, arrival.prompt)
        else:
            row.prompt, row.media_end = arrival.prompt, 0
        self._waiting.append(row)

    def _return_to_towers(self) -> None:
        """Prompts whose media were in the cache when they came, and aren't any more."""
        for row in self._planner.lost_media:
            assert self._towers is not None
            self._returning[id(row.ticket)] = row
            self._towers.enter(row.ticket)
        self._planner.lost_media.clear()

    def _enter_with_media(self, ticket: Ticket) -> None:
        """To the towers, unless all that they would make is in the cache."""
        assert self._towers is not None
        if self._prefixes.tokens and not ticket.rungs:
            prompt, end = self._towers.without_media(ticket.prepared)
            row = Row.of(ticket, prompt)
            row.media_end = end
            if self._prefixes.count(row) >= end:
                self._waiting.append(row)
                return
        self._towers.enter(ticket)

    def _take_inbox(self) -> None:
        now = time.monotonic()
        while self._inbox:
            entry = self._inbox.popleft()
            ticket = entry if isinstance(entry, Ticket) else entry.ticket
            ticket.waits.note("step", now)
            self._shares.enter(ticket.share)
            if self._towers is not None and ticket.prepared.media is not None:
                self._enter_with_media(ticket)
            else:
                self._waiting.append(entry if isinstance(entry, Row) else Row.of(entry))

    def _admit(self, events: list[TokenEvent]) -> None:
        self._take_inbox()
        if self._towers:
            for ticket in self._towers.remove_cancelled():
                self._returning.pop(id(ticket), None)
                events.append(TokenEvent(ticket, None, "cancelled"))
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
        for row in self._slots.rows():
            if row.done:
                self._prefixes.keep(row)
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
        now = time.monotonic()
        if self._prefixes.tokens and now - self._looked_at > _LOOK_SECONDS:
            self._looked_at = now
            self._free_requested |= self._is_short()
        if self._free_requested:
            self._free_requested, self.most_cached = False, 0
            self._prefixes.drop()
            self._forward.release()
            release(self._oom_policy.fallbacks.device)

    def _fail_tower(self, ticket: Ticket, error: Exception | None, events: list[TokenEvent]) -> None:
        if error is not None and is_device_lost(error):
            self._give_up(error, ticket)
        if self._recovery.tower_failed(ticket, error, events) and self._towers is not None:
            self._towers.enter_when_idle(ticket)

    def _give_up(self, error: Exception, *tickets: Ticket) -> None:
        """Nothing that this process computes from now on can succeed."""
        self._publish([TokenEvent(ticket, None, "failed", error) for ticket in (*tickets, *self._everyone())])
        raise error

    def _account(self, decoding: Sequence[Row], chunked: Chunks, drafts: Drafts, seconds: float) -> None:
        counters = self.counters
        read = sum(len(chunk.ids) for _, chunk in chunked)
        counters.steps += 1
        counters.busy_seconds += seconds
        counters.prefill_tokens += read
        counters.decode_tokens += len(decoding) + sum(draft.accepted for draft in drafts.values())
        share_out(step_parts(decoding, chunked, drafts), seconds, self._shares)
        note_work(counters, decoding, chunked, drafts, seconds)
        note_waits(chunked, self._slots.reading(), self._waiting, self._planner.full, time.monotonic())
        self._planner.note(read, bool(decoding), seconds, usual=not drafts)

    def _note_occupancy(self) -> None:
        rows = self._slots.rows()
        cached = sum(row.cached for row in rows)
        self.most_cached = max(self.most_cached, cached)
        waiting = len(self._waiting) + len(self._inbox) + (len(self._towers) if self._towers else 0)
        running = sum(not row.done for row in rows)
        self._occupancy = Occupancy(running, waiting, cached, self._forward.cache_tokens, self._prefixes.tokens)
