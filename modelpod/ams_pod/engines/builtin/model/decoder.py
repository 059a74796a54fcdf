"""Our decoder for Llama- and Qwen-style stacks: decode rows and prefill chunks of many requests as one flat batch.

All tokens of a step share every matmul; only attention looks at requests one by one. Computes what the module's own
forward computes (see `verify`), on its weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.extents import Extent, attention_calls
from ams_pod.engines.builtin.model.linear import Linear, is_quantized, make_linear, packing_works
from ams_pod.engines.builtin.model.logprobs import PIECE
from ams_pod.engines.builtin.model.pool import KeyValuePool, PoolFull
from ams_pod.engines.builtin.model.prefix_tree import BLOCK
from ams_pod.engines.builtin.model.prefixes import Prefixes
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


_LEAST_SPARE = 1024  # tokens


class Decoder:
    """A `Forward` that owns the packed weights and the cache."""

    name = "flat"
    whole_prompts = False
    any_rows = True

    def __init__(
        self,
        stack: Stack,
        slots: int,
        length: int,
        report: Callable[[float], None] = lambda percent: None,
        *,
        cache_tokens: int | None = None,
        prefix_tokens: int = 0,
    ) -> None:
        """`length` is how many tokens one slot may hold, `cache_tokens` how many all may; None: each slot so many.

        `prefix_tokens` are kept beside them of requests that ended.

        `report` gets the percentage of layers packed. The stack's own linear weights are freed on the way. On a CPU
        there is a spare slot, and room for it beside the others'.
        """
        body = stack.body
        weight = body.embed_tokens.weight.data
        self.dtype, self.device = weight.dtype, str(weight.device)
        self.query_heads, self.key_heads, self.head_size = stack.query_heads, stack.key_heads, stack.head_size
        self.group = self.query_heads // self.key_heads
        self.epsilon = stack.epsilon
        packed = packing_works(self.dtype, weight.device.type)
        self.max_rows, self.spare_rows = slots, 1 if weight.device.type == "cpu" else 0
        self.between: Callable[[], None] | None = None
        self._body = body
        self._embeddings = weight
        self._norm = body.norm.weight.data
        self._layers: list[_Layer] = []
        for index, layer in enumerate(body.layers):
            self._layers.append(_take(layer, packed))
            report(100 * (index + 1) / len(body.layers))
        self._head = make_linear([stack.head], packed)
        # While decoding, the three positions of a text token of an mrope model are equal: one table serves them all.
        self._cos, self._sin = self.rotary(torch.arange(length, device=weight.device))
        self.cache_tokens = slots * length if cache_tokens is None else cache_tokens
        self.spare_tokens = self.spare_rows * min(length, max(_LEAST_SPARE, self.cache_tokens // slots))
        tokens = self.cache_tokens + self.spare_tokens
        self.cache = KeyValuePool(
            len(self._layers), tokens, length, self.key_heads, self.head_size, self.dtype, weight.device.type
        )
        self.prefixes = Prefixes(self.cache, prefix_tokens) if prefix_tokens >= BLOCK else None

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [tokens, 1, head size] for positions [tokens] or [3, tokens], sin with its sign folded in."""
        rope = getattr(self._body.config, "rope_parameters", None) or {}
        if "mrope_section" in rope and positions.dim() == 1:
            positions = positions.expand(3, -1)
        shaped = positions[None] if positions.dim() == 1 else positions[:, None]
        cos, sin = self._body.rotary_emb(self._embeddings[:1, None], shaped)
        cos, sin = cos.reshape(-1, self.head_size), sin.reshape(-1, self.head_size).clone()
        sin[:, : self.head_size // 2].neg_()
        return cos.to(self.dtype)[:, None].contiguous(), sin.to(self.dtype)[:, None].contiguous()

    @property
    def length(self) -> int:
        return self.cache.longest

    @property
    def free_tokens(self) -> int:
        return self.cache.free

    @property
    def bytes_per_token(self) -> int:
        return self.cache.bytes_per_token

    def room_for(self, tokens: int) -> int:
        return self.cache.capacity_for(tokens)

    def reserve(self, slot: int, tokens: int, used: int = 0, *, may_move: bool = True, keep: int = 0) -> bool:
        return self.cache.reserve(slot, tokens, used, may_pack=may_move, keep=keep)

    def vacate(self, slot: int) -> None:
        self.cache.vacate(slot)

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        self.cache.compact(order, lengths)

    def reset(self) -> None:
        self.cache.clear()

    def release(self) -> None:
        self.cache.release()

    @torch.inference_mode()
    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary] in the model's dtype."""
        rows = len(batch.lengths)
        ids = torch.tensor([*batch.tokens, *(token for chunk in batch.chunks for token in chunk.ids)])
        written = [(slot, length, length + 1) for slot, length in zip(batch.slots, batch.lengths, strict=True)]
        written += [(chunk.slot, chunk.start, chunk.end) for chunk in batch.chunks]
        for slot, start, end in written:
            if not self.cache.reserve(slot, end, start, may_pack=False):
                raise PoolFull(end, self.cache.free)
        positions = [position + delta for position, delta in zip(batch.lengths, batch.deltas, strict=True)]
        for chunk in batch.chunks:
            positions.extend(range(chunk.start, chunk.end))
        flat = self.cache.rows_of([(self.cache.place(slot), start, end) for slot, start, end in written])
        x = F.embedding(ids.to(self.device), self._embeddings)
        cos, sin = self._turns(positions)
        deep: list[tuple[int, int, Tensor]] = []
        at = rows
        for chunk in batch.chunks:
            end = at + chunk.end - chunk.start
            if chunk.embeds is not None:
                x[at:end] = chunk.embeds.to(x.device)
            if chunk.positions is not None:
                cos[at:end], sin[at:end] = self.rotary(chunk.positions)
            if chunk.deep is not None:
                deep.append((at, end, chunk.deep.to(x.device)))
            at = end
        logit_rows = self._logit_rows(rows, batch.chunks)
        x = self._forward(x, cos, sin, flat, self._attention(batch), deep)
        self._tell(x, rows, batch.chunks)
        return self._logits(x if logit_rows is None else x[logit_rows])

    def _logits(self, x: Tensor) -> Tensor:
        return self._head(F.rms_norm(x, (x.shape[-1],), self._norm, self.epsilon))

    def _tell(self, x: Tensor, rows: int, chunks: Sequence[Chunk]) -> None:
        """The logits of whole chunks, to those who want to hear them."""
        at = rows
        for chunk in chunks:
            count = chunk.end - chunk.start
            if chunk.heard is not None:
                for first in range(0, count, PIECE):
                    chunk.heard(chunk.start + first, self._logits(x[at + first : at + min(first + PIECE, count)]))
            at += count

    def _turns(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """cos and sin [tokens, 1, head size]. The positions behind a long video can lie beyond the table."""
        where = torch.tensor(positions, device=self.device)
        if max(positions) >= self._cos.shape[0]:
            return self.rotary(where)
        return self._cos[where], self._sin[where]

    def _logit_rows(self, rows: int, chunks: Sequence[Chunk]) -> Tensor | None:
        if not chunks:
            return None
        logit_rows, at = list(range(rows)), rows
        for chunk in chunks:
            at += chunk.end - chunk.start
            if chunk.last:
                logit_rows.append(at - 1)
        return torch.tensor(logit_rows, device=self.device, dtype=torch.long)

    def _attention(self, batch: Batch) -> _Attention:
        lengths = [length + 1 for length in batch.lengths]
        found = attention_calls([self.cache.place(slot) for slot in batch.slots], lengths)
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
        chunks, at = [], len(batch.lengths)
        for chunk in batch.chunks:
            count = chunk.end - chunk.start
            place = self.cache.place(chunk.slot)
            chunks.append((at, count, place, chunk.end, self._causal(chunk.start, chunk.end)))
            at += count
        inverse = None if order == sorted(order) else torch.tensor(order, device=self.device).argsort()
        return _Attention(calls, inverse, chunks)

    def _causal(self, start: int, end: int) -> Tensor | None:
        """None means plainly causal; else which of `end` keys each token from `start` on may see, additive."""
        if start == 0:
            return None
        keys, queries = torch.arange(end, device=self.device), torch.arange(start, end, device=self.device)
        mask = torch.zeros(end - start, end, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(keys[None] > queries[:, None], float("-inf"))

    def _forward(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        flat: Tensor,
        attention: _Attention,
        deep: Sequence[tuple[int, int, Tensor]],
    ) -> Tensor:
        """What the last layer makes of x [tokens, hidden]; `flat` [tokens * 2 * key heads] is where their keys and
        values go in the cache.

        `deep` is first token, end and what is added to those behind each of the first layers.
        """
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
            for first, end, features in deep:
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
            chunk = query[first : first + count].transpose(0, 1)[None]
            result = attend(
                chunk, keys[:, :, :end], values[:, :, :end], attn_mask=causal, is_causal=causal is None,
                enable_gqa=self.group > 1,
            )  # fmt: skip
            results.append(result[0].transpose(0, 1).reshape(count, -1))
        return results[0] if len(results) == 1 else torch.cat(results)


def _take(layer: "torch.nn.Module", packed: bool) -> _Layer:
    """The layer's weights in our layout; where they were copied, the module's own are freed at once."""
    attention, mlp = layer.self_attn, layer.mlp
    projections = [attention.q_proj, attention.k_proj, attention.v_proj]
    norms = (attention.q_norm.weight.data, attention.k_norm.weight.data) if hasattr(attention, "q_norm") else None
    taken = _Layer(
        input_norm=layer.input_layernorm.weight.data,
        qkv=make_linear(projections, packed),
        out=make_linear([attention.o_proj], packed),
        post_norm=layer.post_attention_layernorm.weight.data,
        gate=make_linear([mlp.gate_proj], packed),
        up=make_linear([mlp.up_proj], packed),
        down=make_linear([mlp.down_proj], packed),
        qk_norm=norms,
    )
    for group in (projections, [attention.o_proj], [mlp.gate_proj], [mlp.up_proj], [mlp.down_proj]):
        if any(map(is_quantized, group)) or not (packed or len(group) > 1):
            continue  # these modules' own weights serve
        for module in group:
            module.weight.data = torch.empty(0, dtype=module.weight.dtype)
    return taken
