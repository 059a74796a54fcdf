"""The decoder's layers on an NVIDIA GPU: cuBLAS for matrix products, our kernels for what lies between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.cuda.kernels import Heads, LayerKernels, RowPlaces, TokenPlaces
from ams_pod.engines.builtin.model.cuda.kernels import why_not as why_kernels_cannot
from ams_pod.engines.builtin.model.cuda.tables import Place, as_rows, token_table
from ams_pod.engines.builtin.model.extents import Extent
from ams_pod.engines.builtin.model.layers import Work
from ams_pod.engines.builtin.model.linear import Linear, make_linear
from ams_pod.engines.builtin.model.pool import KeyValuePool
from ams_pod.engines.builtin.model.stack import Stack
from ams_pod.engines.builtin.model.torch_layers import attend_chunk, causal_mask, take_linear
from ams_pod.engines.builtin.model.transfer import on_device


def why_not(stack: Stack) -> str:
    """Why these layers can't be computed so; empty where they can."""
    if stack.device.type != "cuda":
        return f"they are for GPUs, and the model is on {stack.device}"
    mlp = stack.body.layers[0].mlp
    return why_kernels_cannot(stack.dtype, heads_of(stack), [mlp.gate_proj.in_features, mlp.gate_proj.out_features])


def heads_of(stack: Stack) -> Heads:
    return Heads(stack.head_size, stack.query_heads, stack.key_heads)


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    out: Linear
    post_norm: Tensor
    gate_and_up: Linear
    down: Linear
    qk_norm: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class _Rows:
    """Tokens of a step from `first` on, each of which sees keys of its own."""

    first: int
    places: RowPlaces


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Tokens `first` to `last` of a step, of one prompt: its extent, the keys they see together, and their mask."""

    first: int
    last: int
    place: Extent
    end: int
    mask: Tensor | None


class CudaLayers:
    """`Layers`, and `of_rows`, which has no other inputs than tensors, so that a graph can be made of it."""

    def __init__(self, stack: Stack, report: Callable[[float], None], kernels: LayerKernels) -> None:
        body = stack.body
        self.between: Callable[[], None] | None = None
        self.dtype, self.device = stack.dtype, stack.device
        self.heads, self.epsilon = heads_of(stack), stack.epsilon
        self._kernels = kernels
        self._norm = body.norm.weight.data
        self._layers = []
        for index, layer in enumerate(body.layers):
            self._layers.append(_take(layer))
            report(100 * (index + 1) / len(body.layers))
        self._head = make_linear([stack.head], packed=False)

    def interrupt(self) -> None:
        """Nothing to do: `between` is called between all layers."""

    def bind(self, cache: KeyValuePool) -> None:
        self._cache = cache

    def logits(self, x: Tensor) -> Tensor:
        return self._head(self._kernels.add_and_norm(x.contiguous(), None, self._norm, self.epsilon))

    def forward(self, work: Work) -> Tensor:
        table = on_device(token_table(work.places, self._cache.heads), self.device)
        parts = self._parts(work.places, work.rows, table)
        turns = (work.cos, work.sin)
        return self._compute(
            work.x.contiguous(), turns, TokenPlaces(*table[:2]), parts, deep=work.deep, between=self.between
        )

    def of_rows(self, x: Tensor, turns: tuple[Tensor, Tensor], tokens: TokenPlaces, rows: RowPlaces) -> Tensor:
        """What the last layer makes of x [tokens, hidden], each of which sees keys of its own; x is overwritten."""
        return self._compute(x, turns, tokens, [_Rows(0, rows)])

    def _parts(self, places: Sequence[Place], rows: int, table: Tensor) -> "list[_Rows | _Chunk]":
        """A step in pieces that attention computes in one call each, in their order."""
        parts: list[_Rows | _Chunk] = []
        begun = at = 0
        alike = [True] * rows + as_rows(places[rows:])
        for (place, start, end), is_like_rows in zip(places, alike, strict=True):
            last = at + end - start
            if not is_like_rows:
                if at > begun:
                    parts.append(_Rows(begun, RowPlaces(*table[2:, begun:at])))
                parts.append(_Chunk(at, last, place, end, causal_mask(start, end, self.dtype, str(self.device))))
                begun = last
            at = last
        if at > begun:
            parts.append(_Rows(begun, RowPlaces(*table[2:, begun:at])))
        return parts

    def _compute(
        self,
        x: Tensor,
        turns: tuple[Tensor, Tensor],
        tokens: TokenPlaces,
        parts: "Sequence[_Rows | _Chunk]",
        deep: Sequence[tuple[int, int, Tensor]] = (),
        between: Callable[[], None] | None = None,
    ) -> Tensor:
        kernels, epsilon, heads, cache = self._kernels, self.epsilon, self.heads, self._cache
        count = x.shape[0]
        added: Tensor | None = None  # what the layer before leaves to be added to x
        for index, layer in enumerate(self._layers):
            if between is not None:
                between()
            normed = kernels.add_and_norm(x, added, layer.input_norm, epsilon)
            qkv = layer.qkv(normed).view(count, heads.queries + 2 * heads.keys, heads.size)
            kernels.turn_and_store(qkv, turns, layer.qk_norm, epsilon, cache.layers[index], tokens)
            attended = self._attend(index, qkv, parts)
            normed = kernels.add_and_norm(x, layer.out(attended), layer.post_norm, epsilon)
            added = layer.down(kernels.silu_and_multiply(layer.gate_and_up(normed)))
            for first, end, features in deep:
                if index < len(features):
                    added[first:end] += features[index]
        return x if added is None else x.add_(added)

    def _attend(self, layer: int, qkv: Tensor, parts: "Sequence[_Rows | _Chunk]") -> Tensor:
        results = []
        for part in parts:
            if isinstance(part, _Rows):
                asked = qkv[part.first : part.first + len(part.places.start)]
                results.append(self._kernels.attend(asked, self._cache.layers[layer], part.places))
                continue
            keys, values = self._cache.keys(layer, part.place)
            query = qkv[part.first : part.last, : self.heads.queries]
            results.append(attend_chunk(query, keys[:, :, : part.end], values[:, :, : part.end], part.mask))
        return results[0] if len(results) == 1 else torch.cat(results)


def _take(layer: "torch.nn.Module") -> _Layer:
    """The layer's weights in our layout."""
    attention, mlp = layer.self_attn, layer.mlp
    return _Layer(
        input_norm=layer.input_layernorm.weight.data,
        qkv=take_linear([attention.q_proj, attention.k_proj, attention.v_proj], False),
        out=take_linear([attention.o_proj], False),
        post_norm=layer.post_attention_layernorm.weight.data,
        gate_and_up=take_linear([mlp.gate_proj, mlp.up_proj], False),
        down=take_linear([mlp.down_proj], False),
        qk_norm=(attention.q_norm.weight.data, attention.k_norm.weight.data) if hasattr(attention, "q_norm") else None,
    )
