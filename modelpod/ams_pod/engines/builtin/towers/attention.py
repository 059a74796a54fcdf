"""Forwards of towers' attention modules that leave the attention itself to the compiled kernels."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ams_pod.engines.builtin.towers.spans import LARGEST_HEAD, Span, SpanAttention, Turning, spans_between


@dataclass(frozen=True, slots=True)
class Names:
    """Of the parts of an attention module: what makes queries, keys and values, or all three at once; the rest."""

    inputs: tuple[str, ...]
    output: str
    scale: str = "scaling"


_FUSED = Names(("qkv",), "proj")
_QKV = Names(("q_proj", "k_proj", "v_proj"), "out_proj")


class OwnAttention:
    """The forward of one module. A reference without a cycle, which would keep the weights."""

    def __init__(self, module: Any, names: Names, attend: SpanAttention) -> None:
        self._module, self._names, self._attend = weakref.ref(module), names, attend
        self._heads, self._scale = int(module.num_heads), float(getattr(module, names.scale))

    @property
    def module(self) -> Any:
        return self._module()

    def attended(self, states: Tensor, spans: Sequence[Span], turning: Turning | None = None) -> Tensor:
        """[tokens, hidden] from [tokens, hidden]."""
        made = [getattr(self.module, name)(states) for name in self._names.inputs]
        query, key, value = made if len(made) == 3 else made[0].chunk(3, dim=-1)
        result = self._attend(query, key, value, self._heads, spans, self._scale, turning)
        projected: Tensor = getattr(self.module, self._names.output)(result)
        return projected


class PackedSpans(OwnAttention):
    """Of modules that get the tokens of all spans one behind the other, and the bounds of the spans."""

    def __call__(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **options: Any,
    ) -> Tensor:
        turning = None if position_embeddings is None else Turning(*(each.float() for each in position_embeddings))
        return self.attended(hidden_states, spans_between(cu_seqlens.tolist()), turning)


class Batched(OwnAttention):
    """Of modules that get [batch, tokens, hidden], and a mask where some of the last tokens are none."""

    def __call__(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> tuple[Tensor, None]:
        count, tokens, width = hidden_states.shape
        seen = [tokens] * count if attention_mask is None else seen_of(attention_mask)
        if seen is None:  # a mask of another kind
            result: tuple[Tensor, None] = type(self.module).forward(
                self.module, hidden_states, attention_mask=attention_mask, **options
            )
            return result
        spans = [Span(index * tokens, tokens, keys) for index, keys in enumerate(seen)]
        made = self.attended(hidden_states.reshape(-1, width), spans)
        return made.view(count, tokens, -1), None


def seen_of(mask: Tensor) -> list[int] | None:
    """How many of the first keys all queries of each row of a batch see, by a mask [batch, 1, queries, keys].

    None for a mask that says anything else.
    """
    if mask.dim() != 4 or mask.shape[1] != 1:
        return None
    seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0
    counts = seen[:, 0].sum(-1)
    expected = torch.arange(mask.shape[3]) < counts[:, None]
    if bool((counts == 0).any()) or not bool((seen == expected[:, None]).all()):
        return None
    found: list[int] = counts.tolist()
    return found


KINDS: dict[str, tuple[Callable[..., OwnAttention], Names]] = {
    "Qwen2_5_VLVisionAttention": (PackedSpans, _FUSED),
    "Qwen3VLVisionAttention": (PackedSpans, _FUSED),
    "Qwen2_5OmniVisionAttention": (PackedSpans, Names(("q", "k", "v"), "proj")),
    "Qwen2_5OmniAudioAttention": (PackedSpans, _QKV),
    "Qwen2AudioAttention": (Batched, _QKV),
    "BlipAttention": (Batched, Names(("qkv",), "projection", "scale")),
}
"""Of attention modules by their class: how they are called, and their parts' names."""


def replace_attention(tower: nn.Module, attend: SpanAttention) -> None:
    """Of all modules that are known and whose heads the kernels know."""
    for module in tower.modules():
        kind, names = KINDS.get(type(module).__name__, (None, _QKV))
        if kind is not None and module.head_dim % 2 == 0 and module.head_dim <= LARGEST_HEAD:
            module.forward = kind(module, names, attend)
