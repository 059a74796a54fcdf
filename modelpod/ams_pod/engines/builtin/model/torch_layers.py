"""The decoder's layers by torch's operators: on every device, and in every number format."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ams_pod.engines.builtin.model.extents import Extent, attention_calls
from ams_pod.engines.builtin.model.layers import Work
from ams_pod.engines.builtin.model.linear import Linear, is_quantized, make_linear, packing_works
from ams_pod.engines.builtin.model.pool import KeyValuePool
from ams_pod.engines.builtin.model.stack import Stack


@dataclass(frozen=True, slots=True)
class _Layer:
    input_norm: Tensor
    qkv: Linear
    out: Linear
    post_norm: Tensor
    gate: Linear
    up: Linear
    down: Linear
    qk_norm: tuple[Tensor, Tensor] | None


@dataclass(frozen=True, slots=True)
class _Call:
    """One attention call of rows: `count` extents from `first` on, of each of which `width` keys are read.

    `rows` are whose queries go where: rows that follow each other, or the row [count] for each extent. `mask` is
    additive, [count, 1, group, width]. `kept` [rows] are the extents that somebody has, None for all.
    """

    first: Extent
    count: int
    width: int
    rows: slice | Tensor
    mask: Tensor
    kept: Tensor | None


@dataclass(frozen=True, slots=True)
class _Attention:
    """What attention needs in each layer of one step: the same for all layers, so made once.

    `order` [rows] puts what the calls make into the rows' order; None where it is that already. Of a chunk there are
    its first token, how many it has, its extent, the keys it sees, and the mask [tokens, keys], None for a causal one.
    """

    calls: list[_Call]
    order: Tensor | None
    chunks: list[tuple[int, int, Extent, int, Tensor | None]]


class TorchLayers:
    """`Layers` with packed weights, where packing works."""

    def __init__(self, stack: Stack, report: Callable[[float], None]) -> None:
        body = stack.body
        self.between: Callable[[], None] | None = None
        self.dtype, self.device = stack.dtype, str(stack.device)
        self.query_heads, self.key_heads, self.head_size = stack.query_heads, stack.key_heads, stack.head_size
        self.group = self.query_heads // self.key_heads
        self.epsilon = stack.epsilon
        packed = packing_works(self.dtype, stack.device.type)
        self._norm = body.norm.weight.data
        self._layers: list[_Layer] = []
        for index, layer in enumerate(body.layers):
            self._layers.append(_take(layer, packed))
            report(100 * (index + 1) / len(body.layers))
        self._head = make_linear([stack.head], packed)

    def interrupt(self) -> None:
        """Nothing to do: `between` is called between all layers."""

    def bind(self, cache: KeyValuePool) -> None:
        self.cache = cache

    def logits(self, x: Tensor) -> Tensor:
        return self._head(F.rms_norm(x, (x.shape[-1],), self._norm, self.epsilon))

    def forward(self, work: Work) -> Tensor:
        x, cos, sin = work.x, work.cos, work.sin
        flat, attention = self.cache.rows_of(work.places), self._attention(work)
        tokens, hidden = x.shape
        size, queries, keys = self.head_size, self.query_heads, self.key_heads
        half, epsilon, rms_norm = size // 2, self.epsilon, F.rms_norm
        rotated = queries + keys
        between = self.between
        for index, layer in enumerate(self._layers):
            if between is not None:
                between()
            qkv = layer.qkv(rms_norm(x, (hidden,), layer.input_norm, epsilon)).view(tokens, rotated + keys, size)
            qk = qkv[:, :rotated]
            if layer.qk_norm is not None:
                qk[:, :queries] = rms_norm(qk[:, :queries], (size,), layer.qk_norm[0], epsilon)
                qk[:, queries:] = rms_norm(qk[:, queries:], (size,), layer.qk_norm[1], epsilon)
            turned = torch.cat((qk[..., half:], qk[..., :half]), -1).mul_(sin)
            qk.mul_(cos).add_(turned)
            self.cache.layers[index].index_copy_(0, flat, qkv[:, queries:].reshape(-1, size))
            x = layer.out.add(self._attend(index, qkv[:, :queries], attention), x)
            z = rms_norm(x, (hidden,), layer.post_norm, epsilon)
            x = layer.down.add(layer.up.mul(z, layer.gate.silu(z)), x)
            for first, end, features in work.deep:
                if index < len(features):
                    x[first:end] += features[index]
        return x

    def _attend(self, layer: int, query: Tensor, attention: _Attention) -> Tensor:
        """query [tokens, query heads, head size] → [tokens, query heads * head size]."""
        heads, size, attend, cache = self.key_heads, self.head_size, F.scaled_dot_product_attention, self.cache
        results = []
        for call in attention.calls:
            # The query heads of a group as query positions of their key head: grouped attention for free.
            keys, values = cache.keys(layer, call.first, call.count)
            grouped = query[call.rows].view(call.count, heads, self.group, size)
            result = attend(grouped, keys[:, :, : call.width], values[:, :, : call.width], attn_mask=call.mask)
            result = result.reshape(call.count, -1)
            results.append(result if call.kept is None else result[call.kept])
        if attention.order is not None:
            results = [torch.cat(results)[attention.order]]
        for first, count, place, end, causal in attention.chunks:
            keys, values = cache.keys(layer, place)
            results.append(attend_chunk(query[first : first + count], keys[:, :, :end], values[:, :, :end], causal))
        return results[0] if len(results) == 1 else torch.cat(results)

    def _attention(self, work: Work) -> _Attention:
        lengths = [end for _, _, end in work.places[: work.rows]]
        found = attention_calls([place for place, _, _ in work.places[: work.rows]], lengths)
        calls, order = [], []
        for call in found:
            kept = [row for row in call.rows if row is not None]
            order.extend(kept)
            keys = torch.tensor([1 if row is None else lengths[row] for row in call.rows], device=self.device)
            beyond = torch.arange(call.width, device=self.device)[None] >= keys[:, None]
            mask = torch.zeros(len(keys), 1, 1, call.width, dtype=self.dtype, device=self.device)
            mask.masked_fill_(beyond[:, None, None], float("-inf"))
            rows: slice | Tensor = slice(kept[0], kept[0] + len(kept))
            if list(call.rows) != list(range(kept[0], kept[0] + len(keys))):
                rows = torch.tensor([kept[0] if row is None else row for row in call.rows], device=self.device)
            places = [at for at, row in enumerate(call.rows) if row is not None]
            calls.append(
                _Call(
                    call.first, len(keys), call.width, rows, mask.expand(-1, 1, self.group, call.width),
                    None if len(places) == len(keys) else torch.tensor(places, device=self.device),
                )
            )  # fmt: skip
        chunks, at = [], work.rows
        for place, start, end in work.places[work.rows :]:
            chunks.append((at, end - start, place, end, causal_mask(start, end, self.dtype, self.device)))
            at += end - start
        inverse = None if order == sorted(order) else torch.tensor(order, device=self.device).argsort()
        return _Attention(calls, inverse, chunks)


def causal_mask(start: int, end: int, dtype: torch.dtype, device: str) -> Tensor | None:
    """None means plainly causal; else which of `end` keys each token from `start` on may see, additive."""
    if start == 0:
        return None
    keys, queries = torch.arange(end, device=device), torch.arange(start, end, device=device)
    mask = torch.zeros(end - start, end, dtype=dtype, device=device)
    return mask.masked_fill_(keys[None] > queries[:, None], float("-inf"))


def attend_chunk(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """query [tokens, query heads, head size] over keys and values [1, key heads, keys, head size], as `causal_mask`
    says → [tokens, query heads * head size]."""
    result = F.scaled_dot_product_attention(
        query.transpose(0, 1)[None], keys, values, attn_mask=mask, is_causal=mask is None,
        enable_gqa=query.shape[1] > keys.shape[1],
    )  # fmt: skip
    return result[0].transpose(0, 1).reshape(len(query), -1)


def take_linear(modules: "list[torch.nn.Linear]", packed: bool) -> Linear:
    """One linear of several modules; where their weights were copied, their own are freed at once."""
    linear = make_linear(modules, packed)
    if not any(map(is_quantized, modules)) and (packed or len(modules) > 1):
        for module in modules:
            module.weight.data = torch.empty(0, dtype=module.weight.dtype)
    return linear


def _take(layer: "torch.nn.Module", packed: bool) -> _Layer:
    """The layer's weights in our layout; where they were copied, the module's own are freed at once."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    norms = (attention.q_norm.weight.data, attention.k_norm.weight.data) if hasattr(attention, "q_norm") else None
    return _Layer(
        input_norm=layer.input_layernorm.weight.data,
        qkv=take_linear(projections, packed),
        out=take_linear([attention.o_proj], packed),
        post_norm=layer.post_attention_layernorm.weight.data,
        gate=take_linear([mlp.gate_proj], packed),
        up=take_linear([mlp.up_proj], packed),
        down=take_linear([mlp.down_proj], packed),
        qk_norm=norms,
    )
