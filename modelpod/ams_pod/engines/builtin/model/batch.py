"""One step's work, and the forward passes that can do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


class SlotFailed(Exception):
    """A step failed on what is in one slot; a forward that computes slots apart knows which. `cause` is what failed.

    Nothing is left of that slot. In the others, the step may be computed again.
    """

    def __init__(self, slot: int, cause: Exception) -> None:
        super().__init__(f"slot {slot}: {cause}")
        self.slot = slot
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens `start` to `end` of a prompt that is read into a slot of its own; `last` if the prompt ends here.

    `embeds` [tokens, hidden] stand in for those of the ids; `positions` [3, tokens] for `start` to `end`. `deep`
    [layers, tokens, hidden] is added to the hidden states behind each of the first layers. `inputs` are what the
    model's processor made beside the ids, for a forward that reads prompts whole.
    """

    slot: int
    start: int
    ids: Sequence[int]
    last: bool
    embeds: Tensor | None = None
    positions: Tensor | None = None
    deep: Tensor | None = None
    inputs: Mapping[str, Any] | None = None

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
    """Runs batches and keeps the cache of their rows.

    `whole_prompts`: a prompt can't be read in several chunks. `any_rows`: rows may be left out of a step, to go on in a
    later one. `spare_rows` are slots beyond `max_rows`. `between`, where it is set and the forward can, is called
    within a step wherever another step may be computed, of chunks in slots that this one doesn't use.
    """

    name: str
    whole_prompts: bool
    any_rows: bool
    spare_rows: int
    between: Callable[[], None] | None

    @property
    def max_rows(self) -> int: ...

    @property
    def length(self) -> int:
        """Tokens that fit one row."""

    @property
    def bytes_per_token(self) -> int: ...

    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary]; finished chunks become rows, each in its slot.

        SlotFailed where it is known whose fault a failure is; then only that row suffers.
        """

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """Slots were left: what is in slot i now was in slot order[i], and holds lengths[i] tokens. Nothing moves up.

        Prompts that are half read count as well.
        """

    def reset(self) -> None:
        """Forget all rows and prompts."""

    def release(self, slots: int) -> None:
        """Give back memory that only what lies behind the first `slots` would use."""
