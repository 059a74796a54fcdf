"""The model's own forward pass as `generate` drives it, one request at a time, each with a cache of its own.

Slower than the other forwards, as no two requests share a matmul, but it asks nothing of a model: what `generate`
prepares for it, which arguments it gets with a prompt and which with a token, is transformers' own code.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from ams_pod.engines.builtin.model.batch import Batch, EqualSlots, SlotFailed
from ams_pod.engines.builtin.model.padded import cache_bytes_per_token

# What a model's generation_config forbids or begins with counts for every request; how tokens are drawn is a request's.
_RULES = (
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "sequence_bias",
    "no_repeat_ngram_size",
)


class SeparateForward(EqualSlots):
    """A `Forward` around any model of transformers that can `generate`. It changes the model's generation_config."""

    name = "separate"
    whole_prompts = True
    reads_wide = False
    any_rows = True
    spare_rows = 1
    between: Callable[[], None] | None = None  # never called

    def __init__(self, model: Any, max_rows: int, length: int) -> None:
        rules = {name: getattr(model.generation_config, name, None) for name in _RULES}
        pad = getattr(model.generation_config, "pad_token_id", None)
        model.generation_config = GenerationConfig(**rules, pad_token_id=pad or 0, do_sample=False, num_beams=1)
        self.model = model
        self.max_rows = max_rows
        self.length = length
        self.bytes_per_token = cache_bytes_per_token(model)
        self._sequences: dict[int, _Sequence] = {}  # by slot

    @torch.inference_mode()
    def step(self, batch: Batch) -> Tensor:
        """Logits [rows + finished chunks, vocabulary]. SlotFailed if it fails; the other slots can be asked again."""
        rows = zip(batch.slots, batch.tokens, batch.lengths, strict=True)
        results = [self._feed(slot, length, [token], {}) for slot, token, length in rows]
        for chunk in batch.chunks:
            logits = self._feed(chunk.slot, chunk.start, chunk.ids, chunk.inputs or {})
            if chunk.last:
                results.append(logits)
        return torch.cat(results) if results else torch.empty(0, 1)

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        self._sequences = {slot: self._sequences[old] for slot, old in enumerate(order) if old in self._sequences}

    def reset(self) -> None:
        self._sequences = {}

    def release(self) -> None:
        """Nothing to do: a cache is as large as its request."""

    def _feed(self, slot: int, start: int, ids: Sequence[int], inputs: Mapping[str, Any]) -> Tensor:
        """Logits [1, vocabulary] behind `ids`, which stand at `start`; those that a failed step has fed already count.

        A prompt is read as a whole, with its `inputs`; what follows is fed token by token, as it was made.
        """
        try:
            if start == 0 and slot not in self._sequences:
                self._sequences[slot] = _Sequence(self.model, ids, inputs)
            sequence = self._sequences[slot]
            for token in ids[sequence.length - start :]:
                sequence.feed(token)
        except Exception as error:
            self._sequences.pop(slot, None)  # some layers may have taken the token, and others not
            raise SlotFailed(slot, error) from error
        return sequence.logits


class _Sequence:
    """One request: what `generate` would keep of it between two tokens, and the logits [1, vocabulary] at its end."""

    logits: Tensor

    def __init__(self, model: Any, ids: Sequence[int], inputs: Mapping[str, Any]) -> None:
        self.length = len(ids)
        model.generate(**model_inputs(model, ids, inputs), custom_generate=self._begin, max_new_tokens=1)

    def _begin(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **arguments: Any,
    ) -> Tensor:
        """In place of the loop of `generate`, which has prepared all of this."""
        self._model, self._ids, self._rules, self._arguments = model, input_ids, logits_processor, arguments
        self._compute(model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **arguments))
        return input_ids

    def feed(self, token: int) -> None:
        self._ids = torch.cat([self._ids, self._ids.new_tensor([[token]])], -1)
        self._compute(self._model.prepare_inputs_for_generation(self._ids, next_sequence_length=1, **self._arguments))
        self.length += 1

    def _compute(self, inputs: dict[str, Any]) -> None:
        output = self._model(**inputs, return_dict=True)
        self._arguments = self._model._update_model_kwargs_for_generation(
            output, self._arguments, is_encoder_decoder=self._model.config.is_encoder_decoder
        )
        self.logits = self._rules(self._ids, output.logits[:, -1].float())


def model_inputs(model: Any, ids: Sequence[int], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `generate` for a prompt of `ids`; `inputs` are what else the processor made of it."""
    made = {"input_ids": torch.tensor([list(ids)])}
    made |= {"attention_mask": torch.ones_like(made["input_ids"]), **inputs}
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        if isinstance(value, Tensor)
        else value
        for name, value in made.items()
    }
