"""A request on its way through the engine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ams_pod.engines.builtin.constraints.guide import Guide
from ams_pod.engines.builtin.model.batch import Chunk
from ams_pod.engines.builtin.model.logprobs import PromptLogprobs
from ams_pod.engines.builtin.model.sampling import RowSampler
from ams_pod.engines.builtin.scheduler.drafting import Copying
from ams_pod.engines.builtin.towers.queue import Prompt
from ams_pod.engines.port import Ticket
from ams_pod.shares import Share

_LONGEST_HEARD = 256  # tokens of a chunk whose logits are wanted of each


@dataclass(slots=True, eq=False)
class Row:
    """`ids` are read, `read` of them already; then tokens follow.

    Normally `ids` are the prompt. After a setback they also hold the `reread` tokens that were made until then.
    `sampler` and `guide` are where the tokens that were made have led to; no setback changes them.
    """

    ticket: Ticket
    sampler: RowSampler
    ids: Sequence[int]
    guide: Guide | None = None  # of an answer that is held to a form
    prompt: Prompt | None = None  # kept to the end: it may have to be read again
    read: int = 0
    reread: int = 0
    tokens: list[int] = field(default_factory=list)  # all that were made
    done: bool = False
    sound: bool = True  # nothing that was computed of it failed
    slot: int = -1  # of the cache, while it has one
    own_prefill: bool = False  # a step that read its prompt and others' failed: no other prompt in its step
    own_batch: bool = False  # memory ran out beside others: nothing else in the batch while it is read
    media_end: int = 0  # up to where a prompt without embeddings must be in the cache
    copying: Copying | None = None  # where its answer repeats what came before; None until somebody asks
    may_copy: bool = True  # a step with a draft of it failed otherwise

    @classmethod
    def of(cls, ticket: Ticket, prompt: Prompt | None = None) -> "Row":
        ids, constraint = ticket.prepared.ids, ticket.sampling.constraint
        guide = None if constraint is None else constraint.guide(thinking=ticket.prepared.thinking)
        return cls(ticket, RowSampler(ticket.sampling, ids), ids, guide, prompt)

    @property
    def delta(self) -> int:
        """From a token's index to its rope position."""
        return self.prompt.delta if self.prompt is not None else 0

    @property
    def cached(self) -> int:
        """Tokens in the cache: the last made one is fed only by the next step."""
        return self.read + max(0, len(self.tokens) - self.reread - 1)

    @property
    def length(self) -> int:
        """Tokens of the prompt and the answer so far."""
        return len(self.ticket.prepared.ids) + len(self.tokens)

    @property
    def reading(self) -> bool:
        """Its prompt is not, or not wholly, in the cache."""
        return self.read < len(self.ids)

    @property
    def apart(self) -> bool:
        """It must be read without other prompts, or without others at all."""
        return self.own_prefill or self.own_batch

    @property
    def share(self) -> Share:
        return self.ticket.share

    @property
    def stateless(self) -> bool:
        """Its next token depends on the logits alone: nothing is drawn, and no token changes what may come next."""
        return self.ticket.sampling.temperature <= 0 and self.sampler.adjustments is None and self.guide is None

    def set_aside(self, *, alone: bool = True) -> None:
        """Back to the start: what was computed is computed again, without others if `alone`.

        No token is published twice.
        """
        self.ids = [*self.ticket.prepared.ids, *self.tokens]
        self.read, self.reread = 0, len(self.tokens)
        self.own_batch = alone

    def next_end(self, end: int) -> int:
        """How far a chunk may go that should end at `end`: a prompt and what was made of it are read apart."""
        own = len(self.ticket.prepared.ids)
        if self.ticket.sampling.prompt_logprobs is not None and self.read < own:
            end = min(end, self.read + _LONGEST_HEARD)
        return own if self.read < own < end else end

    def content(self, end: int) -> Sequence[int]:
        """What the cache of prefixes compares of its first tokens, up to `end`."""
        prepared = self.ticket.prepared
        own = prepared.ids if prepared.content is None else prepared.content
        if end <= len(own):
            return own[:end]
        return [*own, *self.tokens[: end - len(own)]]

    def chunk(self, end: int) -> Chunk:
        """From where it was read to `end`."""
        prompt, start, slot = self.prompt, self.read, self.slot
        ids, last = self.ids[start:end], end == len(self.ids)
        heard = self._heard() if start < len(self.ticket.prepared.ids) else None
        if prompt is None:
            media = self.ticket.prepared.media if start == 0 else None
            return Chunk(slot, start, ids, last, inputs=media, heard=heard)
        positions = None
        if start >= len(self.ticket.prepared.ids):  # tokens made before a setback
            if prompt.positions is not None:
                positions = torch.arange(start, end, device=prompt.positions.device).expand(3, -1) + prompt.delta
            return Chunk(slot, start, ids, last, positions=positions)
        if prompt.positions is not None:
            positions = prompt.positions[:, start:end]
        if prompt.embeds is None:
            return Chunk(slot, start, ids, last, positions=positions)
        deep = prompt.deep[:, start:end] if prompt.deep is not None else None
        embeds = prompt.embeds[start:end]
        return Chunk(slot, start, ids, last, embeds=embeds, positions=positions, deep=deep, heard=heard)

    def draft_chunk(self, draft: Sequence[int]) -> Chunk:
        """Its last token, and what may come behind it."""
        start = self.cached
        ids = [self.tokens[-1], *draft]
        positions = None
        if self.prompt is not None and self.prompt.positions is not None:
            device = self.prompt.positions.device
            positions = torch.arange(start, start + len(ids), device=device).expand(3, -1) + self.delta
        return Chunk(self.slot, start, ids, last=True, positions=positions, all_logits=True)

    def _heard(self) -> Callable[[int, Tensor], None] | None:
        """Who takes the logits of the prompt, if its logprobs are wanted."""
        ticket = self.ticket
        if (top := ticket.sampling.prompt_logprobs) is None:
            return None
        ids = ticket.prepared.ids
        if ticket.prompt_logprobs is None or len(ticket.prompt_logprobs) != len(ids):
            ticket.prompt_logprobs = [None] * len(ids)
        return PromptLogprobs(ids, top, ticket.prompt_logprobs).take


def readable(queue: Sequence[Row], running: bool) -> list[Row]:
    """The prompts that may be read in one step: one that failed beside others goes alone, or while nothing runs."""
    taken: list[Row] = []
    for row in queue:
        if (row.apart and taken) or (row.own_batch and running):
            break
        taken.append(row)
        if row.apart:
            break
    return taken
