"""A step's computing: the forward pass, the next token of each row, and what becomes of those for whom it fails."""

import collections
import logging
import time
from collections.abc import Collection, Sequence

from torch import Tensor

from ams_pod.engines.builtin.constraints.masking import ComingMasks, MaskThread
from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.batch import Batch, Forward, SlotFailed
from ams_pod.engines.builtin.model.logprobs import logprobs_of
from ams_pod.engines.builtin.model.sampling import NOTHING, NotNumbers, sample
from ams_pod.engines.builtin.scheduler.planning import Chunks
from ams_pod.engines.builtin.scheduler.recovery import Recovery
from ams_pod.engines.builtin.scheduler.row import Row
from ams_pod.engines.builtin.scheduler.row_prefixes import RowPrefixes
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.builtin.scheduler.speculation import NO_DRAFTS, Drafts
from ams_pod.engines.builtin.threads import between_steps
from ams_pod.engines.port import EngineRefusal, Finish, TokenEvent, TokenLogprobs

log = logging.getLogger(__name__)


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
        self._mask_thread = MaskThread()

    def step(self, decoding: Sequence[Row], chunked: Chunks, events: list[TokenEvent]) -> None:
        rows = [*decoding, *(row for row, chunk in chunked if chunk.last)]
        batch = self._begin(decoding, chunked, NO_DRAFTS)
        masks = self._mask_thread.begin([row.guide for row in rows])
        logits: Tensor | None = None
        failure: Exception | None = None
        failed_slot: int | None = None
        try:
            logits = self._forward.step(batch)
            chosen = _choose(logits, rows, self._stop_tokens, masks)
        except SlotFailed as error:
            failure, failed_slot = error.cause, error.slot
        except Exception as error:
            failure = error
        if failure is not None:
            if masks is not None:
                masks.wait()
            computed, logits = logits is not None, None
            if is_device_lost(failure):
                raise failure
            if failed_slot is not None:
                self._recovery.slot_failed(failure, failed_slot, events)
            else:
                self._recovery.step_failed(failure, computed, [row for row, _ in chunked], events)
            return
        self._take(rows, chosen, chunked, events)

    def verify(self, decoding: Sequence[Row], drafts: Drafts, events: list[TokenEvent]) -> Exception | None:
        """A step that decodes rows, some with drafts, and reads no prompt.

        What failed, if something did: nothing has become of the step then, and it may be computed without drafts.
        """
        rows = [*(row for row in decoding if row not in drafts), *drafts]  # in the order of their logits
        places: list[int] = []
        entries: list[tuple[Row, int]] = []
        at = 0
        for row in rows:
            places.append(at)
            drafted = len(drafts[row].tokens) if row in drafts else 0
            entries.extend((row, at + ahead) for ahead in range(1 + drafted if row.stateless else 1))
            at += 1 + drafted
        masks = self._mask_thread.begin([row.guide for row, _ in entries])
        failure: Exception | None = None
        try:
            logits = self._forward.step(self._begin(decoding, [], drafts))
            wanted = logits if len(entries) == at else logits[[place for _, place in entries]]
            chosen = iter(_choose(wanted, [row for row, _ in entries], self._stop_tokens, masks))
        except Exception as error:
            failure = error.cause if isinstance(error, SlotFailed) else error
        if failure is not None:
            if masks is not None:
                masks.wait()
            if is_device_lost(failure):
                raise failure
            if is_out_of_memory(failure):
                drop_frames(failure)
                release(self._device)
            return failure
        going_on: list[tuple[Row, int]] = []  # rows with the place of their next logits
        for row, place in zip(rows, places, strict=True):
            drafted = len(drafts[row].tokens) if row in drafts else 0
            run = [next(chosen) for _ in range(1 + drafted if row.stateless else 1)]
            for ahead, (token, logprobs) in enumerate(run):
                self._take_one(row, token, logprobs, events)
                if not self._goes_on(row, token, drafts, ahead):
                    break
            else:
                going_on.append((row, place + 1))
        self._go_on(going_on, logits, drafts, events)
        return None

    def read_at_once(self, chunked: Chunks, events: list[TokenEvent]) -> None:
        """What fails here is read again by a step of its own, which knows what to do about it."""
        rows = [row for row, chunk in chunked if chunk.last]
        masks = self._mask_thread.begin([row.guide for row in rows])
        try:
            chosen = _choose(self._forward.step(self._begin([], chunked, NO_DRAFTS)), rows, self._stop_tokens, masks)
        except Exception as error:
            if masks is not None:
                masks.wait()
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
        self._take(rows, chosen, chunked, events)

    def _begin(self, decoding: Sequence[Row], chunked: Chunks, drafts: Drafts) -> Batch:
        for row, _ in chunked:
            if row.ticket.started_at is None:
                row.ticket.started_at = time.monotonic()
        plain = [row for row in decoding if row not in drafts] if drafts else decoding
        drafted = [row.draft_chunk(draft.tokens) for row, draft in drafts.items()]
        return Batch(
            slots=[row.slot for row in plain],
            tokens=[row.tokens[-1] for row in plain],
            lengths=[row.cached for row in plain],
            deltas=[row.delta for row in plain],
            chunks=[*drafted, *(chunk for _, chunk in chunked)],
        )

    def _take(
        self, rows: Sequence[Row], chosen: "Sequence[_Chosen]", chunked: Chunks, events: list[TokenEvent]
    ) -> None:
        for row, chunk in chunked:
            row.read = chunk.end
            if chunk.last:
                row.own_prefill = row.own_batch = False
        for row, (token, logprobs) in zip(rows, chosen, strict=True):
            self._take_one(row, token, logprobs, events)
        for row, chunk in chunked:
            if chunk.last:
                self._prefixes.keep(row)  # now that it is known whether numbers came out

    def _go_on(self, rows: Sequence[tuple[Row, int]], logits: Tensor, drafts: Drafts, events: list[TokenEvent]) -> None:
        """Choose further tokens of rows whose tokens depend on each other: one of each row after the other.

        So each is chosen as it would be in a step of its own, with the same draws.
        """
        ahead = 1
        while rows:
            masks = self._mask_thread.begin([row.guide for row, _ in rows])
            try:
                chosen = _choose(
                    logits[[place for _, place in rows]], [row for row, _ in rows], self._stop_tokens, masks
                )
            except Exception as error:
                if masks is not None:
                    masks.wait()
                if is_device_lost(error):
                    raise
                log.warning("what followed a draft was given up (%s)", type(error).__name__, exc_info=error)
                return  # they are computed again by the next step
            left: list[tuple[Row, int]] = []
            for (row, place), (token, logprobs) in zip(rows, chosen, strict=True):
                self._take_one(row, token, logprobs, events)
                if self._goes_on(row, token, drafts, ahead):
                    left.append((row, place + 1))
            rows, ahead = left, ahead + 1

    def _goes_on(self, row: Row, token: int | None, drafts: Drafts, ahead: int) -> bool:
        """Whether the logits behind this token of a row are known: its draft had the same one there."""
        if row not in drafts:
            return False
        draft = drafts[row]
        if token is not None and token != NOTHING:
            draft.accepted = ahead
        return not row.done and ahead < len(draft.tokens) and token == draft.tokens[ahead]

    def _take_one(self, row: Row, token: int | None, logprobs: TokenLogprobs | None, events: list[TokenEvent]) -> None:
        if token is None:
            row.sound = False
            events.append(_end(row, "failed", NotNumbers()))
        elif token == NOTHING:
            events.append(_end_without_token(row))
        else:
            self._accept(row, token, logprobs, events)

    def _accept(self, row: Row, token: int, logprobs: TokenLogprobs | None, events: list[TokenEvent]) -> None:
        sampling, guide = row.ticket.sampling, row.guide
        row.tokens.append(token)
        row.sampler.accept(token)
        if row.copying is not None:
            row.copying.append(token)
        finish: Finish | None = None
        # What a grammar lets end ends, whatever else is asked: it allows nothing behind it.
        if (token in self._stop_tokens and (guide is not None or not sampling.ignore_eos)) or (
            token in sampling.stop_tokens
        ):
            finish = "stop"
        elif len(row.tokens) >= sampling.max_new_tokens or row.length >= self._forward.length:
            finish = "length"
        if guide is not None and finish != "stop":
            guide.accept(token)
            if guide.complete:
                finish = None
        row.done = finish is not None
        events.append(TokenEvent(row.ticket, token, finish, logprobs=logprobs))
        if guide is not None and not row.done and (guide.complete or guide.error is not None):
            events.append(_end_without_token(row))


_Chosen = tuple[int | None, TokenLogprobs | None]


def _choose(
    logits: Tensor, rows: Sequence[Row], stop_tokens: Collection[int], masks: ComingMasks | None
) -> list[_Chosen]:
    """The next token of each row, and its logprobs where they are wanted."""
    tokens = sample(logits, [row.sampler for row in rows], stop_tokens, None if masks is None else masks.masks())
    told: dict[int, TokenLogprobs] = {}
    wanted = {
        index: (token, row.ticket.sampling.logprobs)
        for index, (row, token) in enumerate(zip(rows, tokens, strict=True))
        if row.ticket.sampling.logprobs is not None and token is not None and token != NOTHING
    }
    if wanted:
        own, tops = zip(*wanted.values(), strict=True)
        with between_steps():
            told = dict(zip(wanted, logprobs_of(logits[list(wanted)], own, tops), strict=True))
    return [(token, told.get(index)) for index, token in enumerate(tokens)]


def _end(row: Row, finish: Finish, error: Exception | None = None) -> TokenEvent:
    row.done = True
    return TokenEvent(row.ticket, None, finish, error)


def _end_without_token(row: Row) -> TokenEvent:
    """Nothing may follow what was made: it is complete, or it can't be held to what it should be."""
    guide = row.guide
    if guide is None or guide.complete or guide.accepting:
        return _end(row, "stop")
    return _end(row, "failed", guide.error or EngineRefusal("invalid-constraint", _NOTHING_ALLOWED))


_NOTHING_ALLOWED = "What the answer is held to, and the tokens that it may have, leave no token to go on with."
