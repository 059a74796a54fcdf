"""One step's work, and the forward passes that can do it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ams_pod.engines.builtin.model.prefixes import Prefixes


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
    model's processor made beside the ids, for a forward that reads prompts whole. `heard`, where it is set, is called
    with a position and the logits [positions, vocabulary] behind the tokens from there on, a few positions at a time.

    A chunk with `all_logits` is of a row: its last token and what may come behind it. `step` returns the logits behind
    each of its tokens. Those that don't come after all are read again later, at the same places.
    """

    slot: int
    start: int
    ids: Sequence[int]
    last: bool
    embeds: Tensor | None = None
    positions: Tensor | None = None
    deep: Tensor | None = None
    inputs: Mapping[str, Any] | None = None
    heard: Callable[[int, Tensor], None] | None = None
    all_logits: bool = False

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
    later one; where prompts are read in chunks too, rows may go on in chunks of `all_logits`. `spare_rows` are slots
    beyond `max_rows`. `reads_wide`: a step with many tokens of prompts takes little longer than one with few.
    `between`, where it is set and the forward can, is called within a step where another step may be computed, of
    chunks in slots that this one doesn't use: soon after `interrupt`, or wherever it may be. `prefixes` is what is kept
    of requests that ended, None where nothing can be.
    """

    name: str
    whole_prompts: bool
    any_rows: bool
    spare_rows: int
    reads_wide: bool
    between: Callable[[], None] | None
    prefixes: Prefixes | None

    @property
    def max_rows(self) -> int: ...

    @property
    def length(self) -> int:
        """Tokens that fit one row."""

    @property
    def cache_tokens(self) -> int:
        """Tokens that fit all rows together."""

    @property
    def spare_tokens(self) -> int:
        """Tokens that fit beside them, for rows in spare slots."""

    @property
    def free_tokens(self) -> int:
        """How many of both are nobody's."""

    @property
    def bytes_per_token(self) -> int: ...

    def room_for(self, tokens: int) -> int:
        """What a row of so many tokens takes of the cache's."""

    def reserve(self, slot: int, tokens: int, used: int = 0, *, may_move: bool = True, keep: int = 0) -> bool:
        """Make room for so many tokens in a slot, which holds `used` of them; False if the cache has none.

        `may_move`: what is in other slots may move, which it mustn't while a step is computed. `keep` tokens stay free.
        """

    def vacate(self, slot: int) -> None:
        """What is in a slot isn't needed any more. The others stay where they are until `compact`."""

    def interrupt(self) -> None:
        """Have `between` called by the step that is computed, or by the next. From any thread."""

    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary]; finished chunks become rows, each in its slot.

        A chunk of `all_logits` has as many of them as it has tokens, in their order.

        SlotFailed where it is known whose fault a failure is; then only that row suffers.
        """

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """Slots were left: what is in slot i now was in slot order[i], and holds lengths[i] tokens. Nothing moves up.

        Prompts that are half read count as well.
        """

    def reset(self) -> None:
        """Forget all rows and prompts."""

    def release(self) -> None:
        """Give back memory that nobody's rows use."""


class EqualSlots:
    """What a `Forward` says of its cache where each row has room of its own for the longest request."""

    max_rows: int
    length: int
    spare_tokens = 0
    prefixes: Prefixes | None = None

    @property
    def cache_tokens(self) -> int:
        return self.max_rows * self.length

    @property
    def free_tokens(self) -> int:
        return self.cache_tokens

    def room_for(self, tokens: int) -> int:
        return 0

    def reserve(self, slot: int, tokens: int, used: int = 0, *, may_move: bool = True, keep: int = 0) -> bool:
        return True

    def interrupt(self) -> None:
        """Nothing to do: `between` is never called."""

    def vacate(self, slot: int) -> None:
        """Nothing to do: `compact` follows."""
