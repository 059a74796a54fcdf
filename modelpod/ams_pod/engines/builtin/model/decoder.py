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
from ams_pod.engines.builtin.model.linear import Linear, is_quantized, make_linear, packing_works
from ams_pod.engines.builtin.model.slot_cache import SlotCache, segments
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
class _Attention:
    """What attention needs in each layer of one step: the same for all layers, so made once."""

    decode: list[tuple[int, int, int, int, Tensor]]  # first row, end, slot, keys, additive mask [rows, 1, group, keys]
    chunks: list[tuple[int, int, int, int, Tensor | None]]  # first token, tokens, slot, keys, mask [tokens, keys]


class Decoder:
    """A `Forward` that owns the packed weights and the cache."""

    name = "flat"
    whole_prompts = False
    any_rows = True

    def __init__(
        self, stack: Stack, slots: int, length: int, report: Callable[[float], None] = lambda percent: None
    ) -> None:
        """`report` gets the percentage of layers packed. The stack's own linear weights are freed on the way.

        On a CPU, where a slot takes no memory before it is used, there is a spare one.
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
        self.cache = SlotCache(
            len(self._layers), slots + self.spare_rows, length, self.key_heads, self.head_size, self.dtype,
            weight.device.type,
        )  # fmt: skip

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
        return self.cache.length

    @property
    def bytes_per_token(self) -> int:
        return self.cache.bytes_per_token

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        for slot, source in enumerate(order):
            if slot != source:
                self.cache.move(source, slot, lengths[slot])

    def reset(self) -> None:
        """Nothing to do: a slot's old keys are never read."""

    def release(self, slots: int) -> None:
        self.cache.release(slots)

    @torch.inference_mode()
    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary] in the model's dtype."""
        rows, length = len(batch.lengths), self.cache.length
        ids = torch.tensor([*batch.tokens, *(token for chunk in batch.chunks for token in chunk.ids)])
        where = [slot * length + position for slot, position in zip(batch.slots, batch.lengths, strict=True)]
        positions = [position + delta for position, delta in zip(batch.lengths, batch.deltas, strict=True)]
        for chunk in batch.chunks:
            where.extend(range(chunk.slot * length + chunk.start, chunk.slot * length + chunk.end))
            positions.extend(range(chunk.start, chunk.end))
        flat = torch.tensor(where, device=self.device)
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
        return self._forward(x, cos, sin, flat, self._attention(batch), logit_rows, deep)

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
        decode = []
        for first, end, width in segments(batch.slots, [length + 1 for length in batch.lengths], self.cache.length):
            keys = torch.tensor([batch.lengths[row] + 1 for row in range(first, end)], device=self.device)
            beyond = torch.arange(width, device=self.device)[None] >= keys[:, None]
            mask = torch.zeros(end - first, 1, 1, width, dtype=self.dtype, device=self.device)
            mask.masked_fill_(beyond[:, None, None], float("-inf"))
            decode.append((first, end, batch.slots[first], width, mask.expand(-1, 1, self.group, width)))
        chunks, at = [], len(batch.lengths)
        for chunk in batch.chunks:
            count = chunk.end - chunk.start
            chunks.append((at, count, chunk.slot, chunk.end, self._causal(chunk.start, chunk.end)))
            at += count
        return _Attention(decode, chunks)

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
        logit_rows: Tensor | None,
        deep: Sequence[tuple[int, int, Tensor]],
    ) -> Tensor:
        """x [tokens, hidden]; `flat` [tokens] is slot * length + position of each token in the cache.

        `deep` is first token, end and what is added to those behind each of the first layers.
        """
        tokens, hidden = x.shape
        size, queries, keys = self.head_size, self.query_heads, self.key_heads
        half, epsilon, rms_norm = size // 2, self.epsilon, F.rms_norm
        rotated = queries + keys
        between = self.between
        for index, (layer, cached) in enumerate(zip(self._layers, self.cache.layers, strict=True)):
            if between is not None:
                between()
            qkv = layer.qkv(rms_norm(x, (hidden,), layer.input_norm, epsilon)).view(tokens, rotated + keys, size)
            qk = qkv[:, :rotated]
            if layer.qk_norm is not None:
                qk[:, :queries] = rms_norm(qk[:, :queries], (size,), layer.qk_norm[0], epsilon)
                qk[:, queries:] = rms_norm(qk[:, queries:], (size,), layer.qk_norm[1], epsilon)
            turned = torch.cat((qk[..., half:], qk[..., :half]), -1).mul_(sin)
            qk.mul_(cos).add_(turned)
            cached.view(-1, 2 * keys, size).index_copy_(0, flat, qkv[:, queries:])
            x = layer.out.add(self._attend(qkv[:, :queries], cached, attention), x)
            z = rms_norm(x, (hidden,), layer.post_norm, epsilon)
            x = layer.down.add(layer.up.mul(z, layer.gate.silu(z)), x)
            for first, end, features in deep:
                if index < len(features):
                    x[first:end] += features[index]
        if logit_rows is not None:
            x = x[logit_rows]
        return self._head(rms_norm(x, (hidden,), self._norm, epsilon))

    def _attend(self, query: Tensor, cached: Tensor, attention: _Attention) -> Tensor:
        """query [tokens, query heads, head size] → [tokens, query heads * head size]."""
        keys, size, attend = self.key_heads, self.head_size, F.scaled_dot_product_attention
        results = []
        for first, end, slot, width, mask in attention.decode:
            # The query heads of a group as query positions of their key head: grouped attention for free.
            view = cached[slot : slot + end - first, :width].transpose(1, 2)
            grouped = query[first:end].view(end - first, keys, self.group, size)
            result = attend(grouped, view[:, :keys], view[:, keys:], attn_mask=mask)
            results.append(result.reshape(end - first, -1))
        for first, count, slot, end, causal in attention.chunks:
            view = cached[slot : slot + 1, :end].transpose(1, 2)
            chunk = query[first : first + count].transpose(0, 1)[None]
            result = attend(
                chunk, view[:, :keys], view[:, keys:], attn_mask=causal, is_causal=causal is None,
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
