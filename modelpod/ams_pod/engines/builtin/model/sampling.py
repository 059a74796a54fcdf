"""The next token of each row: greedy rows by one argmax, sampled rows by inverse transform with their own randomness.

The warpers are those of transformers, in its order: repetition penalty, temperature, top_k, top_p, min_p. A seed makes
a request's draws independent of the batch it happens to run in.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.port import EngineError, Sampling

_NO_TOKEN = -1
_NARROW = 256  # candidates looked at before the whole vocabulary is sorted


class RowSampler:
    """Sampling of one request and the state it needs between steps."""

    __slots__ = ("random", "sampling", "seen")

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.random = random.Random(sampling.seed)
        self.seen: set[int] = set(prompt) if sampling.repetition_penalty != 1.0 else set()

    @property
    def plain(self) -> bool:
        """Greedy without a penalty: argmax is all."""
        return self.sampling.temperature == 0 and self.sampling.repetition_penalty == 1.0

    def accept(self, token: int) -> None:
        if self.sampling.repetition_penalty != 1.0:
            self.seen.add(token)


class NotNumbers(EngineError):
    """The logits of a row hold NaN: no token of it would mean anything."""

    def __init__(self) -> None:
        super().__init__(
            "The model computed something that is no number (NaN) for this request: its weights are damaged, or their"
            " number format is too narrow for it (spec.precision)."
        )


def sample(logits: Tensor, rows: Sequence[RowSampler]) -> list[int | None]:
    """One token for each row of logits [rows, vocabulary]; None where they hold NaN."""
    highest, found = logits.float().max(-1)  # float first: bfloat16 is five times slower; NaN counts as the highest
    tokens: list[int | None] = found.masked_fill(highest.isnan(), _NO_TOKEN).tolist()
    for index, row in enumerate(rows):
        if tokens[index] == _NO_TOKEN:
            tokens[index] = None
        elif not row.plain:
            tokens[index] = _sample_row(logits[index].float(), row)
    return tokens


def _sample_row(logits: Tensor, row: RowSampler) -> int:
    """A token from logits [vocabulary]; the tensor is not kept."""
    sampling = row.sampling
    if sampling.repetition_penalty != 1.0 and row.seen:
        seen = torch.tensor(list(row.seen), device=logits.device)
        values = logits[seen]
        logits = logits.clone()
        penalty = sampling.repetition_penalty
        logits[seen] = torch.where(values < 0, values * penalty, values / penalty)
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / max(sampling.temperature, 1e-3), -1)
    if not 0 < sampling.top_k < len(probabilities) and sampling.top_p >= 1.0 and sampling.min_p <= 0.0:
        return _draw(probabilities, None, row.random.random())
    candidates, tokens = _candidates(probabilities, sampling.top_k, sampling.top_p, sampling.min_p)
    return _draw(candidates, tokens, row.random.random())


def _candidates(probabilities: Tensor, top_k: int, top_p: float, min_p: float) -> tuple[Tensor, Tensor]:
    """The probabilities (not normalised) and tokens that are kept, most likely first; at least one."""
    vocabulary = len(probabilities)
    limit = min(top_k, vocabulary) if top_k > 0 else vocabulary
    width = min(limit, _NARROW)
    kept, tokens = probabilities.topk(width)
    if width < limit and float(kept.sum()) < top_p and float(kept[-1]) >= min_p * float(kept[0]):
        kept, tokens = probabilities.topk(limit)
    if top_p < 1.0:
        total = float(kept.sum()) if top_k > 0 else 1.0  # top_p counts within what top_k left
        before = kept.cumsum(-1) - kept
        count = max(1, int((before < top_p * total).sum()))
        kept, tokens = kept[:count], tokens[:count]
    if min_p > 0.0:
        count = max(1, int((kept >= min_p * kept[0]).sum()))
        kept, tokens = kept[:count], tokens[:count]
    return kept, tokens


def _draw(weights: Tensor, tokens: Tensor | None, uniform: float) -> int:
    """The token at `uniform` (0 to 1) of the cumulated weights."""
    cumulated = weights.double().cumsum(-1)
    at = int(torch.searchsorted(cumulated, uniform * float(cumulated[-1]), right=True))
    at = min(at, len(weights) - 1)
    return at if tokens is None else int(tokens[at])
