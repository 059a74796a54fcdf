"""Whether our decoder computes what the model's own forward does: compared once, at load, on the real weights."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin.scheduler.batch import Batch, Chunk, Forward

# Relative distance of logits that rounding explains, by the model's number format.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 8e-2, torch.float16: 2e-2}
_PROMPTS, _PROMPT_TOKENS = 2, 20
SHORTEST_CONTEXT = 32  # tokens; the probes must fit


def probe_prompts(vocabulary: int, rows: int = _PROMPTS) -> list[list[int]]:
    """Token ids spread over the vocabulary, always the same: two prompts, or one where only one row fits."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (min(rows, _PROMPTS), _PROMPT_TOKENS), generator=generator).tolist()


def probe_positions(model: Any) -> Tensor | None:
    """Positions [3, tokens] of a prompt with media, where the model tells time, height and width apart; else None."""
    if "mrope_section" not in (getattr(model.config.get_text_config(), "rope_parameters", None) or {}):
        return None
    generator = torch.Generator().manual_seed(1)
    positions = torch.randint(3, (3, _PROMPT_TOKENS), generator=generator).cumsum(1)
    positions[:, -1] = positions.max() + 1
    return positions.to(model.device)


@torch.inference_mode()
def expected_logits(model: Any, prompts: Sequence[Sequence[int]], positions: Tensor | None = None) -> Tensor:
    """The own forward's logits [prompts, vocabulary] behind the last token; run it before weights are taken away."""
    ids = torch.tensor(prompts, device=model.device)
    if positions is None:
        return model(input_ids=ids, logits_to_keep=1).logits[:, -1].float()
    position_ids = positions[:, None].expand(-1, len(prompts), -1)
    return model(input_ids=ids, position_ids=position_ids).logits[:, -1].float()


def distance(
    forward: Forward, prompts: Sequence[Sequence[int]], expected: Tensor, positions: Tensor | None = None
) -> float:
    """Relative distance of a forward's logits when it reads all prompts together, in chunks, then decodes a token."""
    half, last = _PROMPT_TOKENS // 2, _PROMPT_TOKENS - 1
    halved = len(prompts) - 1

    def chunk(slot: int, start: int, end: int) -> Chunk:
        part = None if positions is None else positions[:, start:end]
        return Chunk(slot, start, prompts[slot][start:end], end == last, positions=part)

    chunks = [chunk(slot, 0, last) for slot in range(halved)]
    forward.step(Batch([], [], [], [], [*chunks, chunk(halved, 0, half)]))
    forward.step(Batch([], [], [], [], [chunk(halved, half, last)]))
    delta = 0 if positions is None else int(positions[0, -1]) - last
    rows = len(prompts)
    logits = forward.step(Batch(range(rows), [prompt[last] for prompt in prompts], [last] * rows, [delta] * rows, []))
    forward.compact([], [])
    logits = logits.float()
    return float((logits - expected).norm() / expected.norm().clamp(min=1e-9))


def close_enough(value: float, dtype: torch.dtype) -> bool:
    return value <= _TOLERANCE.get(dtype, 2e-2)
