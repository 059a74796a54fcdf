"""The checked fallback: the module's own forward over a left-padded batch, for models that our decoder doesn't fit.

Slower than `decoder` (the cache grows by concatenation, and padding is computed), but it asks nothing of the model
beyond transformers' usual contract of attention_mask, position_ids and past_key_values.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

from ams_pod.engines.builtin.model.batch import Batch, Chunk, EqualSlots
from ams_pod.engines.builtin.model.logprobs import PIECE
from ams_pod.engines.builtin.model.stack import find_body


class PaddedForward(EqualSlots):
    """A `Forward` around a Hugging Face causal language model."""

    name = "transformers"
    whole_prompts = False
    reads_wide = False
    any_rows = False
    between: Callable[[], None] | None = None  # never called

    def __init__(self, model: Any, max_rows: int, length: int) -> None:
        self.model = model
        # A recurrent state can't be padded or cropped: such a model takes one request at a time.
        self.max_rows = 1 if getattr(model, "_is_stateful", False) else max_rows
        self.spare_rows = 1 if self.max_rows > 1 else 0
        self.length = length
        self.bytes_per_token = cache_bytes_per_token(model)
        self._batch: DynamicCache | None = None
        self._mask: Tensor | None = None  # [rows, columns], 1 where a column holds a token of the row
        self._slots: list[int] = []  # of each row, as they joined
        self._partial: dict[int, DynamicCache] = {}  # prompts half read, by slot

    @torch.inference_mode()
    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary]. If it fails, the rows are as they were, without its prompts."""
        mask = self._mask
        try:
            return self._step(batch)
        except Exception:
            for chunk in batch.chunks:
                self._partial.pop(chunk.slot, None)
            self._restore(mask)
            raise

    def _step(self, batch: Batch) -> Tensor:
        finished: list[tuple[DynamicCache, Chunk]] = []
        chunk_logits: list[Tensor] = []
        for chunk in batch.chunks:
            cache, logits = self._read(chunk)
            if chunk.last:
                finished.append((cache, chunk))
                chunk_logits.append(logits)
        results = [self._decode(batch)] if batch.tokens else []
        for cache, chunk in finished:
            self._join(cache, chunk)
        results.extend(chunk_logits)
        if not results:
            return torch.empty(0, self.model.get_output_embeddings().weight.shape[0])
        return torch.cat(results)

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        self._partial = {slot: self._partial[old] for slot, old in enumerate(order) if old in self._partial}
        row_of = {slot: row for row, slot in enumerate(self._slots)}
        kept = [(slot, row_of[old]) for slot, old in enumerate(order) if old in row_of]
        self._slots = [slot for slot, _ in kept]
        if not kept or self._batch is None or self._mask is None:
            self._batch = self._mask = None
            return
        index = torch.tensor([row for _, row in kept], device=self._mask.device)
        self._mask = self._mask[index]
        unused = int((self._mask.sum(0) > 0).int().argmax())  # columns that pad every row that is left
        self._mask = self._mask[:, unused:]
        for layer in self._batch.layers:
            layer.keys = layer.keys[index][:, :, unused:]
            layer.values = layer.values[index][:, :, unused:]

    def reset(self) -> None:
        self._batch = self._mask = None
        self._slots, self._partial = [], {}

    def release(self) -> None:
        """Nothing to do: the cache is as large as its rows."""

    def _restore(self, mask: Tensor | None) -> None:
        """Some layers may have taken a step's keys, or a new row, and others not: back to where `mask` was made."""
        self._mask = mask
        if mask is None or self._batch is None:
            self._batch, self._slots = None, []
            return
        rows, columns = mask.shape
        del self._slots[rows:]
        for layer in self._batch.layers:
            joined, width = layer.keys.shape[0] > rows, layer.keys.shape[2]
            end = width - 1 if joined else columns  # a row joins behind the step's own column
            layer.keys = layer.keys[:rows, :, end - columns : end]
            layer.values = layer.values[:rows, :, end - columns : end]

    def _read(self, chunk: Chunk) -> tuple[DynamicCache, Tensor]:
        cache = self._partial.pop(chunk.slot) if chunk.start else DynamicCache()
        if not chunk.last:
            self._partial[chunk.slot] = cache
        device = self.model.device
        inputs: dict[str, Tensor] = {}
        if chunk.embeds is None:
            inputs["input_ids"] = torch.tensor([list(chunk.ids)], device=device)
        else:
            inputs["inputs_embeds"] = chunk.embeds[None].to(device)
        if chunk.positions is None:
            inputs["position_ids"] = torch.arange(chunk.start, chunk.end, device=device)[None]
        else:
            inputs["position_ids"] = chunk.positions[:, None].to(device)
        with self._deep_features(chunk.deep):
            output = self.model(
                **inputs,
                attention_mask=torch.ones(1, chunk.end, dtype=torch.long, device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1 if chunk.heard is None else len(chunk.ids),
            )
        if chunk.heard is not None:
            for first in range(0, len(chunk.ids), PIECE):
                chunk.heard(chunk.start + first, output.logits[0, first : first + PIECE])
        return cache, output.logits[:, -1]

    @contextlib.contextmanager
    def _deep_features(self, deep: Tensor | None) -> Iterator[None]:
        """Within the block, the decoder gets these: the model's forward hands on only those of its own tower."""
        if deep is None:
            yield
            return
        body = find_body(self.model)
        places = torch.ones(1, deep.shape[1], dtype=torch.bool, device=self.model.device)
        deep_inputs = {"visual_pos_masks": places, "deepstack_visual_embeds": list(deep)}
        hook = body.register_forward_pre_hook(
            lambda module, arguments, named: (arguments, {**named, **deep_inputs}), with_kwargs=True
        )
        try:
            yield
        finally:
            hook.remove()

    def _decode(self, batch: Batch) -> Tensor:
        cache, mask = self._batch, self._mask
        if cache is None or mask is None:
            raise RuntimeError("rows without a cache")
        mask = F.pad(mask, (0, 1), value=1)
        fed = [batch.slots.index(slot) for slot in self._slots]
        positions = torch.tensor([batch.lengths, batch.deltas], device=mask.device).sum(0)[fed, None]
        output = self.model(
            input_ids=torch.tensor(batch.tokens, device=mask.device)[fed, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        self._mask = mask
        return output.logits[[self._slots.index(slot) for slot in batch.slots], -1]

    def _join(self, cache: DynamicCache, chunk: Chunk) -> None:
        """A prompt that was read becomes the last row."""
        tokens = chunk.end
        mask = torch.ones(1, tokens, dtype=torch.long, device=self.model.device)
        if self._batch is None or self._mask is None:
            self._batch, self._mask = cache, mask
            self._slots.append(chunk.slot)
            return
        columns = max(tokens, self._mask.shape[1])
        for layer, new in zip(self._batch.layers, cache.layers, strict=True):
            layer.keys = torch.cat([_pad(layer.keys, columns), _pad(new.keys, columns)])
            layer.values = torch.cat([_pad(layer.values, columns), _pad(new.values, columns)])
        self._mask = torch.cat([F.pad(m, (columns - m.shape[1], 0)) for m in (self._mask, mask)])
        self._slots.append(chunk.slot)


def cache_bytes_per_token(model: Any) -> int:
    """Bytes of keys and values of one token, from the configuration."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(config.num_hidden_layers * 2 * heads * size * model.dtype.itemsize)


def _pad(keys: Tensor, columns: int) -> Tensor:
    return F.pad(keys, (0, 0, columns - keys.shape[2], 0))
