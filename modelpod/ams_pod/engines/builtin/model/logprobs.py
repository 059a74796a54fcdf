"""Natural logarithms of probabilities, of the logits as the model computes them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.port import TokenLogprobs

PIECE = 64
"""Positions of a prompt whose logits are held at a time."""


def logprobs_of(logits: Tensor, tokens: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    """Of a token for each row of logits [rows, vocabulary], and of so many of the likeliest ones."""
    values = logits.float()
    own = torch.tensor(tokens, device=values.device)[:, None]
    total = values.logsumexp(-1, keepdim=True)
    most = min(max(tops), values.shape[1])
    likeliest = values.topk(most) if most else None
    chosen = (values.gather(1, own) - total)[:, 0].tolist()
    if likeliest is None:
        return [TokenLogprobs(token, value) for token, value in zip(tokens, chosen, strict=True)]
    found, best = (likeliest.values - total).tolist(), likeliest.indices.tolist()
    return [
        TokenLogprobs(token, value, tuple(zip(ids[:top], each[:top], strict=True)))
        for token, value, ids, each, top in zip(tokens, chosen, best, found, tops, strict=True)
    ]


class PromptLogprobs:
    """Those of a prompt's tokens, as its pieces are read; what is read again is written again."""

    def __init__(self, ids: Sequence[int], top: int, found: list[TokenLogprobs | None]) -> None:
        """`found` has a place for each of `ids`; the first token stays without."""
        self._ids, self._top, self._found = ids, top, found

    def take(self, start: int, logits: Tensor) -> None:
        """logits [positions, vocabulary] behind the tokens from `start` on, PIECE of them at most."""
        following = self._ids[start + 1 : start + 1 + len(logits)]
        if following:
            known = logits[: len(following)]
            self._found[start + 1 : start + 1 + len(following)] = logprobs_of(
                known, following, [self._top] * len(following)
            )
