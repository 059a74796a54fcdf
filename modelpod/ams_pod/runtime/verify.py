"""Whether our decoder computes what the model's own forward does: compared once, at load, on the real weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ams_pod.runtime.batch import Batch, Chunk, Forward

# Relative distance of logits that rounding explains, by the model's number format.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
_PROMPTS, _PROMPT_TOKENS = 2, 20
SHORTEST_CONTEXT = 32  # tokens; the probes must fit


def probe_prompts(vocabulary: int, rows: int = _PROMPTS) -> list[list[int]]:
    """Token ids spread over the vocabulary, always the same: two prompts, or one where only one row fits."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (min(rows, _PROMPTS), _PROMPT_TOKENS), generator=generator).tolist()


@torch.inference_mode()
def expected_logits(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """The own forward's logits [prompts, vocabulary] behind the last token; run it before weights are taken away."""
    output = model(input_ids=torch.tensor(prompts, device=model.device), logits_to_keep=1)
    return output.logits[:, -1].float()


def distance(forward: Forward, prompts: Sequence[Sequence[int]], expected: Tensor) -> float:
    """Relative distance of a forward's logits when it reads all prompts together, in chunks, then decodes a token."""
    half, last = _PROMPT_TOKENS // 2, _PROMPT_TOKENS - 1
    *whole, halved = prompts
    chunks = [Chunk(slot, 0, prompt[:last], True) for slot, prompt in enumerate(whole)]
    forward.step(Batch([], [], [], [*chunks, Chunk(len(whole), 0, halved[:half], False)]))
    forward.step(Batch([], [], [], [Chunk(len(whole), half, halved[half:last], True)]))
    logits = forward.step(Batch([p[last] for p in prompts], [last] * len(prompts), [0] * len(prompts), [])).float()
    forward.compact([], [], None)
    return float((logits - expected).norm() / expected.norm().clamp(min=1e-9))


def close_enough(value: float, dtype: torch.dtype) -> bool:
    return value <= _TOLERANCE.get(dtype, 2e-2)
