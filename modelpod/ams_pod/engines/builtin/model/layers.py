"""What a decoder's layers have to do in one step, and who can do it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from ams_pod.engines.builtin.model.extents import Extent
from ams_pod.engines.builtin.model.pool import KeyValuePool


@dataclass(slots=True)
class Work:
    """The tokens of a step: of `rows` requests one each, then those of chunks of prompts.

    `x` [tokens, hidden], `cos` and `sin` [tokens, 1, head size], sin with its sign folded in. `places` are of each row
    and chunk its extent of the cache, its first token there and its end. `deep` is first token, end and what is added
    to the hidden states of those [layers, tokens, hidden] behind each of the first layers. `singly` says of each chunk
    whether its tokens are best computed exactly as if each decoded: who can't does as with any other.
    """

    x: Tensor
    cos: Tensor
    sin: Tensor
    rows: int
    places: Sequence[tuple[Extent, int, int]]
    singly: Sequence[bool]
    deep: Sequence[tuple[int, int, Tensor]] = field(default_factory=list)


class Layers(Protocol):
    """The layers, the norm behind them and the head.

    `between`, where it is set, is called between two layers: soon after `interrupt`, or between all of them.
    """

    between: Callable[[], None] | None

    def interrupt(self) -> None:
        """Have `between` called by the call of `forward` that is going on, or by the next. From any thread."""

    def bind(self, cache: KeyValuePool) -> None:
        """Where keys and values lie; once, before the first step."""

    def forward(self, work: Work) -> Tensor:
        """What the last layer makes of `x` [tokens, hidden], which may be overwritten."""

    def logits(self, x: Tensor) -> Tensor:
        """Logits [tokens, vocabulary], in the model's dtype, of what `forward` gave."""
