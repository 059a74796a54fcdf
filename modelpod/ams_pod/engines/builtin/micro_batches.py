"""Micro-batches of an encoder-decoder that answers questions about images (BLIP).

Requests that arrive within a few milliseconds are encoded together and decoded token by token; answers are a few words
long, so the next batch waits for this one. Each row attends to its own question only, whatever its batch holds, and
gives the tokens that it gives alone.
"""

import collections
import functools
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_device_lost, is_out_of_memory, release
from ams_pod.engines.builtin.model.sampling import NOTHING, NotNumbers, RowSampler, sample
from ams_pod.engines.builtin.scheduler.ladder import Stage
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks, OomPolicy
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
from ams_pod.shares import EVERYBODY, FairShares, Share

_WINDOW_SECONDS = 0.004  # how long the first request of a batch waits for others

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Row:
    ticket: Ticket
    sampler: RowSampler
    tokens: list[int]  # the start token, then those that were made


class MicroBatchCore:
    """Runs requests through a `BlipForQuestionAnswering`. `publish` is called from the compute thread, once a step."""

    def __init__(
        self, model: Any, max_rows: int, context_tokens: int, publish: Publish, fallbacks: OomFallbacks | None = None
    ) -> None:
        """`fallbacks` is what may be done when memory runs out: a fallback that needs another model is passed over."""
        self.counters = EngineCounters()
        self._oom_policy = OomPolicy(fallbacks or OomFallbacks(), self.counters)
        self._free_requested = False
        self._model = model
        _heed_masks(model)
        self._max_rows = max_rows
        self._context = context_tokens
        self._publish = publish
        self._start_token: int = model.decoder_start_token_id
        self._stop_token: int = model.config.text_config.sep_token_id
        self._inbox: collections.deque[Ticket] = collections.deque()
        self._wake = threading.Event()
        self._stopped = False
        self._running = 0
        self._shares = FairShares()
        self._charged_at = 0.0  # until when the time of the batch is on its requests' accounts

    def submit(self, prepared: Prepared, sampling: Sampling, sink: Sink, share: Share = EVERYBODY) -> Ticket:
        """Queue a request. `prepared.media` is its image as the processor made it, [3, height, width]."""
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share)
        self._inbox.append(ticket)
        self._wake.set()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request before the next step."""
        ticket.cancelled = True

    def free_memory(self) -> None:
        """Give back what no running request needs, before the next batch."""
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
            release(self._oom_policy.fallbacks.device)
        if not self._inbox:
            return False
        if len(self._inbox) < self._max_rows:
            time.sleep(_WINDOW_SECONDS)
        tickets = self._choose([self._inbox.popleft() for _ in range(len(self._inbox))])
        gone = [ticket for ticket in tickets if ticket.cancelled]
        if gone:
            self._publish([TokenEvent(ticket, None, "cancelled") for ticket in gone])
        tickets = [ticket for ticket in tickets if not ticket.cancelled]
        self._charged_at = time.perf_counter()
        self._running = len(tickets)
        try:
            self._answer(tickets)
        finally:
            self._running = 0
        return True

    def _choose(self, waiting: Sequence[Ticket]) -> list[Ticket]:
        """The requests of the next batch, those of the key first whose turn it is; the others go on waiting."""
        now = time.monotonic()
        for ticket in waiting:
            ticket.waits.note("step", now)
            self._shares.enter(ticket.share)
        chosen = self._shares.in_order(waiting, lambda ticket: ticket.share)[: self._max_rows]
        taken = {id(ticket) for ticket in chosen}
        self._inbox.extendleft(ticket for ticket in reversed(waiting) if id(ticket) not in taken)
        return chosen

    def _charge(self, rows: Sequence[_Row]) -> None:
        """What was computed since the last call was for these rows, for all of them alike."""
        now = time.perf_counter()
        seconds, self._charged_at = now - self._charged_at, now
        if rows:
            self.counters.busy_seconds += seconds
        for row in rows:
            row.ticket.compute_seconds += seconds / len(rows)
            self._shares.charge(row.ticket.share, seconds / len(rows))

    def _answer(self, tickets: Sequence[Ticket]) -> None:
        """Encode and decode a batch. What fails is tried again one by one: the others must not suffer for it."""
        for ticket in tickets:
            ticket.started_at = time.monotonic()
        rows = [_Row(ticket, RowSampler(ticket.sampling, ()), [self._start_token]) for ticket in tickets]
        if rows and (failure := self._try(rows)) is not None:
            self._divide(rows, *failure)

    def _try(self, rows: list[_Row]) -> tuple[Exception, Stage] | None:
        """Answer rows together, and drop from `rows` what has ended. What failed and where, if something did."""
        stage: Stage = "tower"
        try:
            states, mask = self._encode([row.ticket.prepared for row in rows])
            self._charge(rows)
            stage = "decode"
            self.counters.prefill_tokens += sum(len(row.ticket.prepared.ids) for row in rows)
            cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            feed = [list(row.tokens) for row in rows]  # after a setback, also what was made before
            while rows:
                tokens = self._decode(rows, feed, states, mask, cache)
                self._charge(rows)
                events, staying = self._step(rows, tokens)
                self._publish(events)
                if len(staying) < len(rows):
                    rows[:] = [rows[index] for index in staying]
                    if rows:
                        chosen = torch.tensor(staying, device=states.device)
                        states, mask = states[chosen], mask[chosen]
                        cache.batch_select_indices(chosen)
                feed = [row.tokens[-1:] for row in rows]
        except Exception as error:
            self._charge(rows)
            return error, stage
        return None

    def _step(self, rows: Sequence[_Row], tokens: Sequence[int | None]) -> tuple[list[TokenEvent], list[int]]:
        """The events of one token each, and the indices of the rows that go on."""
        events = [self._accept(row, token) for row, token in zip(rows, tokens, strict=True)]
        return events, [index for index, event in enumerate(events) if event.finish is None]

    def _divide(self, rows: Sequence[_Row], error: Exception, stage: Stage) -> None:
        """A batch failed: its rows are answered one by one, each from where it was. A single one has its own fault."""
        if is_device_lost(error):
            self._publish([TokenEvent(row.ticket, None, "failed", error) for row in rows])
            raise error
        memory_ran_out = is_out_of_memory(error)
        if memory_ran_out:
            drop_frames(error)
            release(self._oom_policy.fallbacks.device)
        if len(rows) == 1:
            self._publish([self._end(rows[0], error, stage, memory_ran_out)])
            return
        log.warning("a batch of %d failed (%s): its requests are answered one by one", len(rows), type(error).__name__)
        for row in rows:
            if memory_ran_out:
                self._oom_policy.step_down(row.ticket, stage, others=True)
            single = [row]
            if (failure := self._try(single)) is not None:
                self._divide(single, *failure)

    def _end(self, row: _Row, error: Exception, stage: Stage, memory_ran_out: bool) -> TokenEvent:
        if not memory_ran_out:
            log.error("a request failed", exc_info=error)
            return TokenEvent(row.ticket, None, "failed", error)
        if self._oom_policy.step_down(row.ticket, stage, streamed=len(row.tokens) > 1) == "simplified":
            return TokenEvent(row.ticket, None, "stop")
        return TokenEvent(row.ticket, None, "failed", self._oom_policy.refusal(row.ticket, stage, 0))

    def _encode(self, prepared: Sequence[Prepared]) -> tuple[Tensor, Tensor]:
        """(states of the questions [rows, tokens, hidden], 1 where a state is a token's [rows, tokens])."""
        model = self._model
        weights = next(model.parameters())
        pixels = torch.stack([each.media for each in prepared]).to(weights.device, weights.dtype)
        images = model.vision_model(pixel_values=pixels)[0]
        longest = max(len(each.ids) for each in prepared)
        ids = torch.full((len(prepared), longest), model.config.text_config.pad_token_id or 0)
        mask = torch.zeros(len(prepared), longest, dtype=torch.long)
        for index, each in enumerate(prepared):
            ids[index, : len(each.ids)] = torch.tensor(each.ids)
            mask[index, : len(each.ids)] = 1
        mask = mask.to(weights.device)
        states = model.text_encoder(
            input_ids=ids.to(weights.device), attention_mask=mask, encoder_hidden_states=images, return_dict=True
        ).last_hidden_state
        return states, mask

    def _decode(
        self,
        rows: Sequence[_Row],
        feed: Sequence[Sequence[int]],
        states: Tensor,
        mask: Tensor,
        cache: EncoderDecoderCache,
    ) -> list[int | None]:
        """The next token of each row, after `feed` [rows, tokens]; None where no number came out."""
        ids = torch.tensor(feed, device=states.device)
        logits = self._model.text_decoder(
            input_ids=ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            use_cache=True,
            is_decoder=True,
        ).logits[:, -1]
        self.counters.steps += 1
        self.counters.decode_tokens += len(rows)
        return sample(logits, [row.sampler for row in rows], (self._stop_token,))

    def _accept(self, row: _Row, token: int | None) -> TokenEvent:
        if row.ticket.cancelled:
            return TokenEvent(row.ticket, None, "cancelled")
        if token is None:
            return TokenEvent(row.ticket, None, "failed", NotNumbers())
        if token == NOTHING:
            return TokenEvent(row.ticket, None, "stop")
        sampling = row.ticket.sampling
        row.tokens.append(token)
        made = len(row.tokens) - 1
        if made == 1:
            row.ticket.waits.note("reading", time.monotonic())
        row.sampler.accept(token)
        finish: Finish | None = None
        if (token == self._stop_token and not sampling.ignore_eos) or token in sampling.stop_tokens:
            finish = "stop"
        elif made >= sampling.max_new_tokens or made + 1 >= self._context:
            finish = "length"
        return TokenEvent(row.ticket, token, finish)


def _heed_masks(model: Any) -> None:
    """Let cross-attention see which of its states are padding.

    transformers 5.23 drops the mask between BlipTextAttention and its inner module, so that a short question would
    attend to the padding that a longer one in its batch causes.
    """
    for layer in model.text_decoder.bert.encoder.layer:
        layer.crossattention.forward = functools.partial(_attend, layer.crossattention)


def _attend(
    attention: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    encoder_hidden_states: Tensor | None = None,
    past_key_values: Any = None,
    **ignored: Any,
) -> tuple[Tensor, Tensor]:
    context, probabilities = attention.self(
        hidden_states,
        encoder_hidden_states=encoder_hidden_states,
        encoder_attention_mask=attention_mask,
        past_key_values=past_key_values,
    )
    return attention.output(context, hidden_states), probabilities
