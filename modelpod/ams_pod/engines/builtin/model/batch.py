"""One step's work, and the forward passes that can do it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a prompt that is read into a slot of its own; `last` if the prompt ends here.

    `embeds` [tokens, hidden] stand in for those of the ids; `positions` [3, tokens] for `start` to `end`. `deep`
    [layers, tokens, hidden] is added to the hidden states behind each of the first layers.
    """

    slot: int
    start: int
    ids: Sequence[int]
    last: bool
    embeds: Tensor | None = None
    positions: Tensor | None = None
    deep: Tensor | None = None

    @property
    def end(self) -> int:
        return self.start + len(self.ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Row i, in slot `slots[i]`, feeds `tokens[i]` after `lengths[i]` cached tokens; its rope position is length +
    `deltas[i]`.

    Slots ascend. Prompts that are half read, and chunks, lie in slots between them or behind.
    """

    slots: Sequence[int]
    tokens: Sequence[int]
    lengths: Sequence[int]
    deltas: Sequence[int]
    chunks: Sequence[Chunk]


class Forward(Protocol):
    """Runs batches and keeps the cache of their rows."""

    name: str

    @property
    def max_rows(self) -> int: ...

    @property
    def length(self) -> int:
        """Tokens that fit one row."""

    @property
    def bytes_per_token(self) -> int: ...

    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary]; finished chunks become rows, each in its slot."""

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """Slots were left: what is in slot i now was in slot order[i], and holds lengths[i] tokens. Nothing moves up.

        Prompts that are half read count as well.
        """

    def reset(self) -> None:
        """Forget all rows and prompts."""

    def release(self, slots: int) -> None:
        """Give back memory that only what lies behind the first `slots` would use."""
