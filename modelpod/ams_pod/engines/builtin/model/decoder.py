"""Our decoder for Llama- and Qwen-style stacks: decode rows and prefill chunks of many requests as one flat batch.

All tokens of a step share every matmul; only attention looks at requests one by one. Computes what the module's own
forward computes (see `verify`), on its weights.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.cuda.graphs import StepGraphs
from ams_pod.engines.builtin.model.cuda.kernels import KernelsUnavailable, RowPlaces, TokenPlaces, kernels_for
from ams_pod.engines.builtin.model.cuda.layers import CudaLayers, heads_of
from ams_pod.engines.builtin.model.cuda.layers import why_not as why_not_on_a_gpu
from ams_pod.engines.builtin.model.cuda.tables import Place
from ams_pod.engines.builtin.model.layers import Layers, Work
from ams_pod.engines.builtin.model.logprobs import PIECE
from ams_pod.engines.builtin.model.native.layers import NativeLayers, why_not
from ams_pod.engines.builtin.model.pool import KeyValuePool, PoolFull
from ams_pod.engines.builtin.model.prefix_tree import BLOCK
from ams_pod.engines.builtin.model.prefixes import Prefixes
from ams_pod.engines.builtin.model.stack import Stack, waits_for_the_host
from ams_pod.engines.builtin.model.torch_layers import TorchLayers
from ams_pod.engines.builtin.threads import between_steps

log = logging.getLogger(__name__)
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
        self.dtype, self.device = stack.dtype, str(stack.device)
        self.head_size = stack.head_size
        self.max_rows, self.spare_rows = slots, 1 if stack.device.type == "cpu" else 0
        self._body = body
        self._layers, reason = _layers_for(stack, report)
        log.info("layers run on %s", f"torch's operators: for the kernels, {reason}" if reason else "compiled kernels")
        if isinstance(self._layers, NativeLayers):
            log.info("the kernels are those for %s", self._layers.variant)
        self._around_kernels = between_steps if isinstance(self._layers, NativeLayers) else nullcontext
        self.reads_wide = stack.device.type == "cuda"
        # While decoding, the three positions of a text token of an mrope model are equal: one table serves them all.
        self._cos, self._sin = self.rotary(torch.arange(length, device=stack.device))
        self.cache_tokens = slots * length if cache_tokens is None else cache_tokens
        self.spare_tokens = self.spare_rows * min(length, max(_LEAST_SPARE, self.cache_tokens // slots))
        tokens = self.cache_tokens + self.spare_tokens
        self.cache = KeyValuePool(
            len(body.layers), tokens, length, stack.key_heads, stack.head_size, self.dtype, stack.device.type
        )
        self._layers.bind(self.cache)
        if isinstance(self._layers, NativeLayers):
            self._layers.look_up_in(body.embed_tokens, self._cos, self._sin)
        self.prefixes = Prefixes(self.cache, prefix_tokens) if prefix_tokens >= BLOCK else None
        self._graphs = self._make_graphs(stack)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [tokens, 1, head size] for positions [tokens] or [3, tokens], sin with its sign folded in."""
        rope = getattr(self._body.config, "rope_parameters", None) or {}
        if "mrope_section" in rope and positions.dim() == 1:
            positions = positions.expand(3, -1)
        shaped = positions[None] if positions.dim() == 1 else positions[:, None]
        cos, sin = self._body.rotary_emb(torch.empty(1, 1, 1, dtype=self.dtype, device=self.device), shaped)
        cos, sin = cos.reshape(-1, self.head_size), sin.reshape(-1, self.head_size).clone()
        sin[:, : self.head_size // 2].neg_()
        return cos.to(self.dtype)[:, None].contiguous(), sin.to(self.dtype)[:, None].contiguous()

    @property
    def between(self) -> Callable[[], None] | None:
        return self._layers.between

    @between.setter
    def between(self, call: Callable[[], None] | None) -> None:
        self._layers.between = call

    def interrupt(self) -> None:
        self._layers.interrupt()

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
        ids = [*batch.tokens, *(token for chunk in batch.chunks for token in chunk.ids)]
        written = [(slot, length, length + 1) for slot, length in zip(batch.slots, batch.lengths, strict=True)]
        written += [(chunk.slot, chunk.start, chunk.end) for chunk in batch.chunks]
        for slot, start, end in written:
            if not self.cache.reserve(slot, end, start, may_pack=False):
                raise PoolFull(end, self.cache.free)
        positions = [position + delta for position, delta in zip(batch.lengths, batch.deltas, strict=True)]
        for chunk in batch.chunks:
            positions.extend(range(chunk.start, chunk.end))
        places = [(self.cache.place(slot), start, end) for slot, start, end in written]
        x = self._of_tokens(ids, positions, places, batch)
        if x is None:
            with self._around_kernels():
                x = self._layers.forward(self._work(ids, positions, places, batch))
        self._tell(x, rows, batch.chunks)
        logit_rows = self._logit_rows(rows, batch.chunks)
        if logit_rows is not None:
            with self._around_kernels():
                x = x[logit_rows]
        return self._layers.logits(x)

    def _of_tokens(
        self, ids: Sequence[int], positions: Sequence[int], places: Sequence[Place], batch: Batch
    ) -> Tensor | None:
        """What the last layer makes of tokens alone, by a graph or the kernels; None for others, such as media."""
        plain = all(chunk.embeds is None and chunk.positions is None and chunk.deep is None for chunk in batch.chunks)
        if not plain or max(positions) >= self._cos.shape[0]:
            return None
        if self._graphs is not None:
            return self._graphs.run(ids, positions, places, len(batch.lengths))
        if isinstance(self._layers, NativeLayers):
            singly = [chunk.all_logits for chunk in batch.chunks]
            return self._layers.of_tokens(ids, positions, places, len(batch.lengths), singly)
        return None

    def _work(self, ids: Sequence[int], positions: Sequence[int], places: Sequence[Place], batch: Batch) -> Work:
        x = self._body.embed_tokens(torch.tensor(ids).to(self.device))
        cos, sin = self._turns(positions)
        deep: list[tuple[int, int, Tensor]] = []
        at = rows = len(batch.lengths)
        for chunk in batch.chunks:
            end = at + chunk.end - chunk.start
            if chunk.embeds is not None:
                x[at:end] = chunk.embeds.to(x.device)
            if chunk.positions is not None:
                cos[at:end], sin[at:end] = self.rotary(chunk.positions)
            if chunk.deep is not None:
                deep.append((at, end, chunk.deep.to(x.device)))
            at = end
        return Work(x, cos, sin, rows, places, [chunk.all_logits for chunk in batch.chunks], deep)

    @torch.inference_mode()
    def _make_graphs(self, stack: Stack) -> StepGraphs | None:
        layers = self._layers
        if not isinstance(layers, CudaLayers) or waits_for_the_host(stack):
            return None

        def compute(ids: Tensor, positions: Tensor, tokens: TokenPlaces, rows: RowPlaces) -> Tensor:
            turns = self._cos[positions], self._sin[positions]
            return layers.of_rows(self._body.embed_tokens(ids), turns, tokens, rows)

        graphs = StepGraphs(compute, stack.key_heads, stack.device)
        return graphs if graphs.make() else None

    def _tell(self, x: Tensor, rows: int, chunks: Sequence[Chunk]) -> None:
        """The logits of whole chunks, to those who want to hear them."""
        at = rows
        for chunk in chunks:
            count = chunk.end - chunk.start
            if chunk.heard is not None:
                for first in range(0, count, PIECE):
                    chunk.heard(
                        chunk.start + first, self._layers.logits(x[at + first : at + min(first + PIECE, count)])
                    )
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
            first, at = at, at + chunk.end - chunk.start
            if chunk.all_logits:
                logit_rows.extend(range(first, at))
            elif chunk.last:
                logit_rows.append(at - 1)
        return torch.tensor(logit_rows, device=self.device, dtype=torch.long)


def _layers_for(stack: Stack, report: Callable[[float], None]) -> tuple[Layers, str]:
    """The fastest layers that compute this stack, and why not the kernels do; "" where they do."""
    if stack.device.type != "cuda":
        reason = why_not(stack)
        return (TorchLayers(stack, report) if reason else NativeLayers(stack, report)), reason
    if reason := why_not_on_a_gpu(stack):
        return TorchLayers(stack, report), reason
    try:
        kernels = kernels_for(stack.dtype, heads_of(stack))
    except KernelsUnavailable as error:
        return TorchLayers(stack, report), f"they can't be made here: {error}"
    return CudaLayers(stack, report, kernels), ""
