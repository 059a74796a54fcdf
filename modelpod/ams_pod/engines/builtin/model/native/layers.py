"""The decoder's layers by the compiled kernels: all layers of a step in one call, on bfloat16 and grouped weights."""

import ctypes
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.compiled import ChunkC, LayerC, LinearC, ModelC, StepC, TablesC
from ams_pod.engines.builtin.model.extents import Extent
from ams_pod.engines.builtin.model.group_layouts import GROUP
from ams_pod.engines.builtin.model.grouped import GroupedLinear
from ams_pod.engines.builtin.model.layers import Work
from ams_pod.engines.builtin.model.native.packing import (
    BF16,
    Arena,
    Packed,
    pack,
    packed_as_is,
    tiled_elements,
)
from ams_pod.engines.builtin.model.pool import KeyValuePool
from ams_pod.engines.builtin.model.stack import Stack
from ams_pod.engines.builtin.threads import keep_one_between_steps, one_thread

_LARGEST_HEAD = 256
_LARGEST_GROUP = 16  # query heads of a key head
_ANY = 2**62  # tokens that other embeddings know, which say themselves where they don't know one


def why_not(stack: Stack) -> str:
    """Why the kernels can't compute these layers, which they do in bfloat16 on a CPU; empty where they can."""
    if stack.device.type != "cpu" or stack.dtype != torch.bfloat16:
        return f"they compute in bfloat16 on a CPU, and the model in {stack.dtype} on {stack.device}"
    return compiled.unavailable() or why_not_of_shape(stack)


def why_not_of_shape(stack: Stack) -> str:
    """Why the kernels don't know layers of this shape, whatever computes them; empty where they do."""
    inputs = {linear.in_features for linear in (stack.head, *_all_linears(stack))}
    if odd := sorted(size for size in (stack.head_size, *inputs) if size % GROUP):
        return f"they know sizes that go by {GROUP}, and the model has one of {odd[0]}"
    if stack.head_size > _LARGEST_HEAD:
        return f"they know heads of up to {_LARGEST_HEAD}, and the model has some of {stack.head_size}"
    if stack.query_heads % stack.key_heads or stack.query_heads // stack.key_heads > _LARGEST_GROUP:
        return f"they know groups of up to {_LARGEST_GROUP} query heads"
    if any(_kind(linear) is None for linear in (stack.head, *_all_linears(stack))):
        return "some layers have weights of a kind that they don't know"
    return ""


class NativeLayers:
    """`Layers`; hidden states are float32 between them."""

    def __init__(self, stack: Stack, report: Callable[[float], None]) -> None:
        self.between: Callable[[], None] | None = None
        found = compiled.load()
        assert found is not None
        self._library, self.variant = found, compiled.variant()
        self._stop = ctypes.c_int32(0)
        self._threads = torch.get_num_threads()
        keep_one_between_steps()
        self._kept: list[Tensor | Packed] = []
        layers, body = list(stack.body.layers), stack.body
        plain = [linear for linear in (stack.head, *_all_linears(stack)) if _kind(linear) == BF16]
        self._arena = Arena(tiled_elements(plain), stack.kept_tiles)
        self._layers = (LayerC * len(layers))()
        tied = _kind(stack.head) == BF16 and stack.head.weight is body.embed_tokens.weight
        for index, layer in enumerate(layers):
            self._take(layer, self._layers[index])
            report(100 * (index + 1) / len(layers))
        first = layers[0].mlp.gate_proj
        self._vocabulary = stack.head.out_features
        self._model = ModelC(
            self._layers, len(layers), first.in_features, first.out_features, stack.query_heads, stack.key_heads,
            stack.head_size, 0, self._float(body.norm.weight), self._linear(stack.head, free=not tied), stack.epsilon,
            stack.head_size**-0.5,
        )  # fmt: skip

    def bind(self, cache: KeyValuePool) -> None:
        self._cache = cache
        self._model.pool_tokens = cache.tokens
        for index, layer in enumerate(cache.layers):
            self._layers[index].cache = layer.data_ptr()

    def look_up_in(self, embeddings: nn.Module, cos: Tensor, sin: Tensor) -> None:
        """Where `of_tokens` finds what belongs to tokens and positions; cos and sin [positions, 1, head size]."""
        self._embeddings = embeddings
        plain = type(embeddings) is nn.Embedding and embeddings.weight.dtype == torch.bfloat16
        table = embeddings.weight.data.contiguous() if plain and isinstance(embeddings, nn.Embedding) else None
        self._tables = TablesC(
            None if table is None else table.data_ptr(), cos.data_ptr(), sin.data_ptr(),
            _ANY if table is None else len(table), len(cos), self._model.hidden, self._model.head_size,
        )  # fmt: skip
        self._looked_up_in = table, cos, sin

    def interrupt(self) -> None:
        self._stop.value = 1

    def of_tokens(
        self,
        ids: Sequence[int],
        positions: Sequence[int],
        places: Sequence[tuple[Extent, int, int]],
        rows: int,
        singly: Sequence[bool],
    ) -> Tensor:
        """`forward` of tokens at these rope positions, which lie in the table: without an operator of torch's."""
        tokens, size = len(ids), self._model.head_size
        turns = torch.empty(2, tokens, size)
        cos = turns.data_ptr()
        sin = cos + tokens * size * turns.itemsize
        if self._tables.embeddings is None:
            with one_thread():
                x = self._embeddings(torch.tensor(ids)).float().contiguous()
        else:
            x = torch.empty(tokens, self._model.hidden)
        which, where = array("q", ids), array("q", positions)
        places_of = which.buffer_info()[0], where.buffer_info()[0]
        if self._library.ams_gather(self._tables, tokens, *places_of, x.data_ptr(), cos, sin):
            raise IndexError("a token isn't one of the model's, or lies behind the longest request")
        self._compute(x, cos, sin, places, rows, singly)
        return x

    def forward(self, work: Work) -> Tensor:
        x = work.x.float().contiguous()
        cos, sin = work.cos.float().contiguous(), work.sin.float().contiguous()
        self._compute(x, cos.data_ptr(), sin.data_ptr(), work.places, work.rows, work.singly, work.deep)
        return x

    def _compute(
        self,
        x: Tensor,
        cos: int,
        sin: int,
        places: Sequence[tuple[Extent, int, int]],
        rows: int,
        singly: Sequence[bool],
        deep: Sequence[tuple[int, int, Tensor]] = (),
    ) -> None:
        """All layers, in x; float32 cos and sin [tokens, head size] lie at these addresses."""
        heads = self._cache.heads
        bases, strides, positions = array("q"), array("q"), array("q")
        for place, start, end in places:
            if end - start == 1:
                bases.append(place.offset * heads)
                strides.append(place.capacity)
                positions.append(start)
            else:
                bases.extend([place.offset * heads] * (end - start))
                strides.extend([place.capacity] * (end - start))
                positions.extend(range(start, end))
        chunks = (ChunkC * max(1, len(places) - rows))()
        at = rows
        for chunk, (place, start, end), each in zip(chunks, places[rows:], singly, strict=False):
            chunk.first, chunk.count, chunk.keys, chunk.singly = at, end - start, end, each
            chunk.base, chunk.stride = place.offset * heads, place.capacity
            at += end - start
        step = StepC(
            len(x), rows, len(places) - rows, x.data_ptr(), cos, sin,
            bases.buffer_info()[0], strides.buffer_info()[0], positions.buffer_info()[0], chunks,
        )  # fmt: skip
        self._library.ams_use(self._threads)
        for first, last in self._stretches(deep):
            self._stretch(step, first, last)
            for start, end, features in deep:
                if last <= len(features):
                    x[start:end] += features[last - 1]

    def _stretch(self, step: StepC, first: int, last: int) -> None:
        """Layers `first` to `last`, with `between` where somebody interrupts them."""
        while first < last:
            if self._stop.value and self.between is not None:
                self._stop.value = 0  # first, so that who interrupts meanwhile is heard
                self.between()
                self._library.ams_use(self._threads)
            stop = None if self.between is None else self._stop
            first = self._library.ams_layers(self._model, step, first, last, stop)
            if first < 0:
                raise MemoryError("no memory for a step of the decoder")

    def logits(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        result = torch.empty(len(x), self._vocabulary, dtype=torch.bfloat16)
        self._library.ams_use(self._threads)
        if len(x):
            self._check(self._library.ams_logits(self._model, x.data_ptr(), None, len(x), result.data_ptr()))
        return result

    def _stretches(self, deep: Sequence[tuple[int, int, Tensor]]) -> Iterator[tuple[int, int]]:
        """Layers that are computed in one call: each alone behind which something is added."""
        count = len(self._layers)
        alone = max((len(each) for _, _, each in deep), default=0)
        yield from ((index, index + 1) for index in range(min(alone, count)))
        if alone < count:
            yield alone, count

    def _take(self, layer: Any, to: LayerC) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        to.query, to.key, to.value = map(self._linear, (attention.q_proj, attention.k_proj, attention.v_proj))
        to.out = self._linear(attention.o_proj)
        to.gate, to.up, to.down = map(self._linear, (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        to.input_norm = self._float(layer.input_layernorm.weight)
        to.post_norm = self._float(layer.post_attention_layernorm.weight)
        if hasattr(attention, "q_norm"):
            to.query_norm, to.key_norm = self._float(attention.q_norm.weight), self._float(attention.k_norm.weight)

    def _linear(self, module: nn.Linear, *, free: bool = True) -> LinearC:
        """The layer in tiles; what it was copied from is freed."""
        if isinstance(module, GroupedLinear):
            packed = packed_as_is(module, module.packed, module.layout)
        else:
            packed = pack(module, self._arena)
            if free:
                module.weight.data = torch.empty(0, dtype=module.weight.dtype)
        self._kept.append(packed)
        return packed.c

    def _float(self, weight: Tensor) -> int:
        """Where its float32 copy lies."""
        self._kept.append(copy := weight.data.float().contiguous())
        return copy.data_ptr()

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise MemoryError("no memory for a step of the decoder")


def _kind(module: nn.Linear) -> int | None:
    """The number of the layout of a layer's weights that there are kernels for."""
    if type(module) is nn.Linear:
        return BF16 if module.weight.dtype == torch.bfloat16 else None
    return module.layout.number if isinstance(module, GroupedLinear) else None


def _linears(layer: Any) -> list[nn.Linear]:
    attention, mlp = layer.self_attn, layer.mlp
    return [
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    ]


def _all_linears(stack: Stack) -> list[nn.Linear]:
    return [linear for layer in stack.body.layers for linear in _linears(layer)]
