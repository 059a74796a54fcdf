"""Attention by the compiled kernels, where tokens of a span see each other whatever their order.

Keys and values are laid out once for all queries of their span. A large call is computed in parts, between which others
may be (`interruptible`): some heads at a time, so that what is laid out stays small, and of these some of the queries.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin.compiled import AttentionC, SpanC
from ams_pod.engines.builtin.towers.interruptible import part_flops, spend

LARGEST_HEAD = 256
_ROOM_BYTES = 64 << 20  # of keys and values that are laid out at a time
_LEAST_QUERIES = 128  # which the kernels compute as one piece


@dataclass(frozen=True, slots=True)
class Span:
    """`count` tokens from `first` on, which see the first `keys` of them."""

    first: int
    count: int
    keys: int


@dataclass(frozen=True, slots=True, eq=False)
class Turning:
    """Rotary embeddings: cosines and sines [tokens, head size] in 32 bits."""

    cos: Tensor
    sin: Tensor


@dataclass(frozen=True, slots=True)
class Part:
    """Heads and queries of one call of the kernels; `place` where its keys and values aren't laid out yet."""

    first_head: int
    last_head: int
    first: int
    last: int
    place: bool


class SpanAttention:
    """The compiled kernels, on as many threads as torch's operators have."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        spans: Sequence[Span],
        scale: float,
        turning: Turning | None = None,
    ) -> Tensor:
        """[tokens, heads · head size] of such queries, keys and values in bfloat16, whose rows may lie apart.

        `spans` hold each token once.
        """
        tokens, width = query.shape
        size = width // heads
        cos, sin = (None, None) if turning is None else (turning.cos.contiguous(), turning.sin.contiguous())
        result = torch.empty(tokens, width, dtype=torch.bfloat16)
        attention = AttentionC(
            heads, size, len(spans), query.data_ptr(), key.data_ptr(), value.data_ptr(), query.stride(0), key.stride(0),
            value.stride(0), None if cos is None else cos.data_ptr(), None if sin is None else sin.data_ptr(),
            (SpanC * len(spans))(*(SpanC(span.first, span.count, span.keys) for span in spans)), None,
            result.data_ptr(), scale, 0,
        )  # fmt: skip
        room = self._library.ams_attention_room(attention)
        at_once = max(1, min(heads, _ROOM_BYTES // (2 * room)))
        tiles = torch.empty(at_once * room, dtype=torch.bfloat16)
        attention.tiles = tiles.data_ptr()
        work, part = flops_of(spans, width), part_flops(query)
        for each in parts(heads, at_once, tokens, work, part):
            share = (each.last_head - each.first_head) / heads * (each.last - each.first) / tokens
            spend(work * share, part)
            self._library.ams_use(torch.get_num_threads())
            if self._library.ams_attend(
                attention, each.first_head, each.last_head, each.first, each.last, int(each.place)
            ):
                raise MemoryError("no memory for a tower's attention")
        return result


def parts(heads: int, at_once: int, tokens: int, work: float, part: float) -> list[Part]:
    """All of `heads` and `tokens`, `at_once` heads at a time, in parts of `part` operations of the `work` in all."""
    found = []
    for first_head in range(0, heads, at_once):
        last_head = min(heads, first_head + at_once)
        of_these = work * (last_head - first_head) / heads
        step = tokens if of_these <= part else max(_LEAST_QUERIES, int(tokens * part / of_these))
        found += [
            Part(first_head, last_head, first, min(tokens, first + step), first == 0)
            for first in range(0, tokens, step)
        ]
    return found


def flops_of(spans: Sequence[Span], width: int) -> float:
    """Operations of both products, of heads that are `width` values together."""
    return 4.0 * width * sum(span.count * span.keys for span in spans)


def spans_between(bounds: Sequence[int]) -> list[Span]:
    """Of tokens from each bound to the next, which see each other."""
    return [Span(start, end - start, end - start) for start, end in itertools.pairwise(bounds) if end > start]
