"""A step's computing: the forward pass, the next token of each row, and what becomes of those for whom it fails."""

import collections
import time
from collections.abc import Sequence

from torch import Tensor

from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.batch import Batch, Forward, SlotFailed
from ams_pod.engines.builtin.model.sampling import NotNumbers, sample
from ams_pod.engines.builtin.scheduler.planning import Chunks
from ams_pod.engines.builtin.scheduler.recovery import Recovery
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.row_prefixes import RowPrefixes
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.port import Finish, TokenEvent


class Computation:
    """Steps of a `Forward`. An error is raised only where the device is lost, and with it all requests."""

    def __init__(
        self,
        forward: Forward,
        slots: Slots,
        waiting: collections.deque[Row],
        recovery: Recovery,
        stop_tokens: frozenset[int],
        device: str,
        prefixes: RowPrefixes,
    ) -> None:
        self._prefixes = prefixes
        self._forward, self._slots, self._waiting, self._recovery = forward, slots, waiting, recovery
        self._stop_tokens, self._device = stop_tokens, device

    def step(self, decoding: Sequence[Row], chunked: Chunks, events: list[TokenEvent]) -> None:
        rows = [*decoding, *(row for row, chunk in chunked if chunk.last)]
        batch = self._begin(decoding, chunked)
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
                raise failure
            if failed_slot is not None:
                self._recovery.slot_failed(failure, failed_slot, events)
            else:
                self._recovery.step_failed(failure, computed, [row for row, _ in chunked], events)
            return
        self._take_tokens(rows, tokens, chunked, events)

    def read_at_once(self, chunked: Chunks, events: list[TokenEvent]) -> None:
        """What fails here is read again by a step of its own, which knows what to do about it."""
        try:
            rows = [row for row, chunk in chunked if chunk.last]
            tokens = sample(self._forward.step(self._begin([], chunked)), [row.sampler for row in rows])
        except Exception as error:
            if is_device_lost(error):
                raise
            if is_out_of_memory(error):
                drop_frames(error)
                release(self._device)
            for row, _ in reversed(chunked):
                self._slots.vacate(row)
                row.read, row.own_prefill = 0, True
                self._waiting.appendleft(row)
            return
        self._take_tokens(rows, tokens, chunked, events)

    def _begin(self, decoding: Sequence[Row], chunked: Chunks) -> Batch:
        for row, _ in chunked:
            if row.ticket.started_at is None:
                row.ticket.started_at = time.monotonic()
        return Batch(
            slots=[row.slot for row in decoding],
            tokens=[row.tokens[-1] for row in decoding],
            lengths=[row.cached for row in decoding],
            deltas=[row.delta for row in decoding],
            chunks=[chunk for _, chunk in chunked],
        )

    def _take_tokens(
        self, rows: Sequence[Row], tokens: Sequence[int | None], chunked: Chunks, events: list[TokenEvent]
    ) -> None:
        for row, chunk in chunked:
            row.read = chunk.end
            if chunk.last:
                row.own_prefill = row.own_batch = False
                self._prefixes.keep(row)
        for row, token in zip(rows, tokens, strict=True):
            events.append(self._accept(row, token) if token is not None else self._refuse(row))

    def _refuse(self, row: Row) -> TokenEvent:
        row.done, row.sound = True, False
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
