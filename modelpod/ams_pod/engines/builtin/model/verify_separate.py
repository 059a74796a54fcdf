"""Whether requests that are computed apart get what `generate` gives each alone: checked once, at load.

A model may keep something of a prompt in itself, where the next prompt replaces it. So prompts are read before the
others' tokens are fed, as they are when requests come and go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.separate import SeparateForward, model_inputs
from ams_pod.engines.port import Prepared

_NEW_TOKENS = 3


@dataclass(frozen=True, slots=True, eq=False)
class GeneratedProbe:
    """A prompt, the greedy `tokens` of `generate`, and the logits [tokens, vocabulary] that it took each from."""

    prepared: Prepared
    tokens: Sequence[int]
    expected: Tensor


@torch.inference_mode()
def generated_probe(model: Any, prepared: Prepared) -> GeneratedProbe:
    output = model.generate(
        **model_inputs(model, prepared.ids, prepared.media or {}),
        max_new_tokens=_NEW_TOKENS,
        output_scores=True,
        return_dict_in_generate=True,
    )
    expected = torch.cat(output.scores).float()
    return GeneratedProbe(prepared, output.sequences[0, -_NEW_TOKENS:].tolist(), expected)


def token_distance(forward: SeparateForward, probes: Sequence[GeneratedProbe]) -> float:
    """The largest relative distance of a probe's logits when all are computed beside each other.

    SlotFailed if the model can't be driven so.
    """
    slots = range(len(probes))
    chunks = [Chunk(slot, 0, each.prepared.ids, True, inputs=each.prepared.media) for slot, each in enumerate(probes)]
    steps = [torch.cat([forward.step(Batch([], [], [], [], [chunk])) for chunk in chunks])]
    for index in range(_NEW_TOKENS - 1):
        tokens = [each.tokens[index] for each in probes]
        lengths = [len(each.prepared.ids) + index for each in probes]
        steps.append(forward.step(Batch(slots, tokens, lengths, [0] * len(probes), [])))
    forward.reset()
    results = torch.stack(steps, 1).float()
    return max(_distance(made, each.expected) for made, each in zip(results, probes, strict=True))


def _distance(made: Tensor, expected: Tensor) -> float:
    """A token that a rule of the model forbids has -inf, and counts as 0."""
    made, expected = (torch.nan_to_num(each, neginf=0.0) for each in (made, expected))
    return float((made - expected).norm() / expected.norm().clamp(min=1e-9))
