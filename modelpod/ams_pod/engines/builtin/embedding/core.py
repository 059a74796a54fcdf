"""Batches of texts through an encoder: what waits together is computed together, texts of like lengths side by side."""

import collections
import logging
import threading
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.sampling import NotNumbers
from ams_pod.engines.port import (
    EngineCounters,
    EngineRefusal,
    Occupancy,
    Prepared,
    Publish,
    Sampling,
    Sink,
    Ticket,
    TokenEvent,
)
from ams_pod.shares import EVERYBODY, FairShares, Share

Encode = Callable[[Sequence[Prepared]], Tensor]
"""Vectors [texts, size] of texts, or scores [pairs, 1] of pairs."""

_MOST_TOKENS = 8192  # of a batch, padding included
_WINDOW_SECONDS = 0.002  # how long the first text of a batch waits for others

log = logging.getLogger(__name__)


class EmbeddingCore:
    """Runs requests through `encode`. `publish` is called from the compute thread, once a batch."""

    def __init__(self, encode: Encode, max_rows: int, context_tokens: int, publish: Publish, device: str) -> None:
        self.counters = EngineCounters()
        self._encode, self._max_rows, self._context = encode, max_rows, context_tokens
        self._publish, self._device = publish, device
        self._inbox: collections.deque[Ticket] = collections.deque()
        self._shares = FairShares()
        self._wake = threading.Event()
        self._stopped = self._free_requested = False
        self._running = 0

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY) -> Ticket:
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share)
        self._inbox.append(ticket)
        self._wake.set()
        return ticket

    def free_memory(self) -> None:
        self._free_requested = True
        self._wake.set()

    def occupancy(self) -> Occupancy:
        return Occupancy(self._running, len(self._inbox), 0, self._max_rows * self._context)

    def stop(self) -> None:
        self._stopped = True
        self._wake.set()

    def run(self) -> None:
        """Answer until `stop`; requests that are left then end with `cancelled`. For the compute thread."""
        while not self._stopped:
            self._wake.clear()
            if not self.step():
                self._wake.wait()
        self._publish([TokenEvent(ticket, None, "cancelled") for ticket in self._inbox])

    @torch.inference_mode()
    def step(self) -> bool:
        """Answer one batch; False if nobody waits."""
        if self._free_requested:
            self._free_requested = False
            release(self._device)
        if not self._inbox:
            return False
        if len(self._inbox) < self._max_rows:
            time.sleep(_WINDOW_SECONDS)
        batch = self._choose([self._inbox.popleft() for _ in range(len(self._inbox))])
        self._running = len(batch)
        try:
            self._answer(batch)
        finally:
            self._running = 0
        return True

    def _choose(self, waiting: Sequence[Ticket]) -> list[Ticket]:
        """The next batch: the text of the key whose turn it is, and the others that lengthen the batch least."""
        now = time.monotonic()
        gone = [ticket for ticket in waiting if ticket.cancelled]
        if gone:
            self._publish([TokenEvent(ticket, None, "cancelled") for ticket in gone])
        for ticket in waiting:
            ticket.waits.note("step", now)
            self._shares.enter(ticket.share)
        order = self._shares.in_order([each for each in waiting if not each.cancelled], lambda ticket: ticket.share)
        if not order:
            return []
        lead = order[0]
        chosen, longest = [lead], len(lead.prepared.ids)
        own = [each for each in order[1:] if not self._shares.behind(lead.share, each.share)]
        for each in sorted(own, key=lambda ticket: abs(len(ticket.prepared.ids) - longest)):
            longest = max(longest, len(each.prepared.ids))
            if len(chosen) >= self._max_rows or longest * (len(chosen) + 1) > _MOST_TOKENS:
                break
            chosen.append(each)
        taken = {id(ticket) for ticket in chosen}
        self._inbox.extendleft(ticket for ticket in reversed(order) if id(ticket) not in taken)
        return chosen

    def _answer(self, batch: Sequence[Ticket]) -> None:
        """What fails together is tried again one by one: the others must not suffer for it."""
        if not batch:
            return
        began, started = time.perf_counter(), time.monotonic()
        for ticket in batch:
            ticket.started_at = ticket.started_at or started
        failure: Exception | None = None
        vectors: list[list[float]] = []
        try:
            vectors = self._encode([ticket.prepared for ticket in batch]).float().cpu().tolist()
        except Exception as error:
            failure = error
        self._account(batch, time.perf_counter() - began)
        if failure is None:
            self._publish([_told(ticket, vector) for ticket, vector in zip(batch, vectors, strict=True)])
            return
        if is_device_lost(failure):
            self._publish([TokenEvent(ticket, None, "failed", failure) for ticket in batch])
            raise failure
        if short := is_out_of_memory(failure):
            drop_frames(failure)
            release(self._device)
        if len(batch) > 1:
            log.warning("a batch of %d failed (%s): its texts go one by one", len(batch), type(failure).__name__)
            for ticket in batch:
                self._answer([ticket])
            return
        refusal = EngineRefusal("out-of-memory", "Memory ran out for this text, with nothing else running.")
        if not short:
            log.error("a text could not be computed", exc_info=failure)
        self._publish([TokenEvent(batch[0], None, "failed", refusal if short else failure)])

    def _account(self, batch: Sequence[Ticket], seconds: float) -> None:
        tokens = sum(len(ticket.prepared.ids) for ticket in batch)
        self.counters.steps += 1
        self.counters.busy_seconds += seconds
        self.counters.prefill_tokens += tokens
        for ticket in batch:
            part = seconds * len(ticket.prepared.ids) / max(1, tokens)
            ticket.compute_seconds += part
            self._shares.charge(ticket.share, part)
            work = self.counters.work_of(ticket.share.key)
            work.prompt_tokens += len(ticket.prepared.ids)
            work.prompt_seconds += part


def _told(ticket: Ticket, vector: list[float]) -> TokenEvent:
    if ticket.cancelled:
        return TokenEvent(ticket, None, "cancelled")
    if any(value != value for value in vector):  # NaN
        return TokenEvent(ticket, None, "failed", NotNumbers())
    return TokenEvent(ticket, None, "stop", embedding=vector)
