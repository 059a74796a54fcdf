"""The next token of each row: greedy rows by one argmax, others by inverse transform with randomness of their own.

The rules are those of transformers' processors, in its order: penalties, temperature, top_k, top_p, min_p. Mostly a few
likeliest tokens are all that a row may draw from. Rows whose candidates are many, as at high temperatures, are drawn
together from all tokens, and again where the token is none that top_p keeps. So their tokens are distributed as if the
vocabulary had been sorted, which it never is (rejection sampling, as in FlashInfer). A row's draws don't depend on the
batch that it happens to run in.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.penalties import Penalties
from ams_pod.engines.port import EngineError, Sampling

_NO_TOKEN = -1
_AGAIN = -2
_NARROW = 256  # candidates that are looked at before all tokens are
_BLOCK = 256  # weights that are added up before one of them is looked for
_LEAST_TEMPERATURE = 1e-3
_MOST_ROUNDS = 64  # each leaves out more; nobody has seen ten
_ROUNDS_ON_A_GPU = 4  # of drawing again before the host looks for whom that wasn't enough


class RowSampler:
    """Sampling of one request and the state it needs between steps."""

    __slots__ = ("penalties", "random", "sampling")

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self.sampling = sampling
        self.random = random.Random(sampling.seed)
        self.penalties = Penalties.of(sampling, prompt)

    def accept(self, token: int) -> None:
        if self.penalties is not None:
            self.penalties.accept(token)


class NotNumbers(EngineError):
    """The logits of a row hold NaN: no token of it would mean anything."""

    def __init__(self) -> None:
        super().__init__(
            "The model computed something that is no number (NaN) for this request: its weights are damaged, or their"
            " number format is too narrow for it (spec.precision)."
        )


def sample(logits: Tensor, rows: Sequence[RowSampler]) -> list[int | None]:
    """One token for each row of logits [rows, vocabulary]; None where they hold NaN."""
    values = _penalised(logits, rows)
    highest, likeliest = values.max(-1)  # NaN counts as the highest
    tokens: list[int | None] = likeliest.masked_fill(highest.isnan(), _NO_TOKEN).tolist()
    wide = []
    for index, row in enumerate(rows):
        if tokens[index] == _NO_TOKEN:
            tokens[index] = None
        elif row.sampling.temperature > 0:
            if (token := _draw_narrow(values[index], row)) is None:
                wide.append(index)
            else:
                tokens[index] = token
    if wide:
        drawn = _draw_wide(values[wide], highest[wide], likeliest[wide], [rows[index] for index in wide])
        for index, token in zip(wide, drawn.tolist(), strict=True):
            tokens[index] = token
    return tokens


def _draw_narrow(logits: Tensor, row: RowSampler) -> int | None:
    """A token of logits [vocabulary], where few candidates are all that the row may draw from, or nothing limits it;
    else None."""
    sampling = row.sampling
    probabilities = torch.softmax(logits / max(sampling.temperature, _LEAST_TEMPERATURE), -1)
    vocabulary = len(probabilities)
    limit = min(sampling.top_k, vocabulary) if sampling.top_k > 0 else vocabulary
    if limit == vocabulary and sampling.top_p >= 1.0 and sampling.min_p <= 0.0:
        return _at(probabilities, row.random.random())
    width = min(limit, _NARROW)
    kept, tokens = probabilities.topk(width)
    if width < limit and float(kept.sum()) < sampling.top_p and float(kept[-1]) >= sampling.min_p * float(kept[0]):
        return None
    if sampling.top_p < 1.0:
        total = float(kept.sum()) if sampling.top_k > 0 else 1.0  # top_p counts within what top_k left
        before = kept.cumsum(-1) - kept
        kept = kept[: max(1, int((before < sampling.top_p * total).sum()))]
    if sampling.min_p > 0.0:
        kept = kept[: max(1, int((kept >= sampling.min_p * kept[0]).sum()))]
    return int(tokens[_at(kept, row.random.random())])


def _at(weights: Tensor, uniform: float) -> int:
    """The place at `uniform` (0 to 1) of the cumulated weights."""
    cumulated = weights.double().cumsum(-1)
    at = int(torch.searchsorted(cumulated, uniform * float(cumulated[-1]), right=True))
    return min(at, len(weights) - 1)


def _penalised(logits: Tensor, rows: Sequence[RowSampler]) -> Tensor:
    """The logits as float32, as bfloat16 is five times slower, with the penalties of each row; the given ones stay."""
    values = logits.float()
    penalised = [(index, row.penalties) for index, row in enumerate(rows) if row.penalties is not None]
    if penalised and values is logits:
        values = logits.clone()
    for index, penalties in penalised:
        penalties.apply(values[index])
    return values


def _draw_wide(logits: Tensor, highest: Tensor, likeliest: Tensor, rows: Sequence[RowSampler]) -> Tensor:
    """A token [rows] for each row of logits [rows, vocabulary]; `likeliest` [rows] have the `highest` logits.

    A row of which the highest is no finite number keeps its likeliest token.
    """
    weights = _Weights(logits, highest, [row.sampling for row in rows])
    tokens = torch.where(highest.isfinite(), _AGAIN, likeliest)
    again = set(range(len(rows)))
    rounds = 1 if logits.device.type == "cpu" else _ROUNDS_ON_A_GPU
    for _ in range(_MOST_ROUNDS // rounds):
        for _ in range(rounds):
            uniform = [row.random.random() if index in again else 0.0 for index, row in enumerate(rows)]
            tokens = torch.where(tokens == _AGAIN, weights.draw(uniform), tokens)
        again = {index for index, token in enumerate(tokens.tolist()) if token == _AGAIN}
        if not again:
            return tokens
    return torch.where(tokens == _AGAIN, likeliest, tokens)


class _Weights:
    """What tokens weigh [rows, vocabulary] after temperature, top_k and min_p, where the likeliest weighs 1."""

    def __init__(self, logits: Tensor, highest: Tensor, samplings: Sequence[Sampling]) -> None:
        rows, self._vocabulary = logits.shape
        temperatures = [max(sampling.temperature, _LEAST_TEMPERATURE) for sampling in samplings]
        padded = -(-self._vocabulary // _BLOCK) * _BLOCK
        self._all = logits.new_zeros(rows, padded)
        inner = self._all[:, : self._vocabulary]
        torch.sub(logits, highest[:, None], out=inner)
        inner.div_(logits.new_tensor(temperatures)[:, None]).exp_()
        self._keep_top_k([sampling.top_k for sampling in samplings])
        self.rejects = any(sampling.top_p < 1.0 for sampling in samplings)
        if self.rejects:
            # Of the mass that top_k leaves; min_p comes after it.
            shares = [sampling.top_p if sampling.top_p < 1.0 else 2.0 for sampling in samplings]
            self._most_above = self._all.sum(-1) * logits.new_tensor(shares)
        if any(sampling.min_p > 0.0 for sampling in samplings):
            least = logits.new_tensor([min(sampling.min_p, 1.0) for sampling in samplings])
            self._all.masked_fill_(self._all < least[:, None], 0.0)
        self._sum_blocks()

    def draw(self, uniform: Sequence[float]) -> Tensor:
        """A token [rows] each, at so much (0 to 1) of the row's weight; _AGAIN for one that top_p leaves out.

        What was left out, and all that weighs no more, isn't drawn again.
        """
        device = self._all.device
        target = torch.tensor(uniform, dtype=torch.double, device=device)[:, None] * self._sums[:, -1:]
        block = torch.searchsorted(self._sums, target, right=True).clamp_(max=self._sums.shape[1] - 1)
        before = torch.where(block > 0, self._sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
        places = block * _BLOCK + torch.arange(_BLOCK, device=device)
        inside = self._all.gather(1, places).double().cumsum(-1) + before
        at = torch.searchsorted(inside, target, right=True).clamp_(max=_BLOCK - 1)
        token = block * _BLOCK + at
        weight = self._all.gather(1, token)
        good = weight > 0  # rounding may lead to a neighbour that weighs nothing
        if self.rejects:
            above = torch.where(self._all > weight, self._all, 0.0).sum(-1, keepdim=True)
            inside_top_p = (above < self._most_above[:, None]) | (above == 0)
            outside = (good & ~inside_top_p)[:, 0]
            good &= inside_top_p
            if self._all.device.type != "cpu" or bool(outside.any()):
                limit = torch.where(outside, weight[:, 0], -1.0)[:, None]
                self._all.masked_fill_(self._all <= limit, 0.0)
                self._sum_blocks()
        return torch.where(good, token, _AGAIN)[:, 0]

    def _sum_blocks(self) -> None:
        blocks = self._all.view(len(self._all), -1, _BLOCK).sum(-1)
        self._sums = blocks.double().cumsum(-1)

    def _keep_top_k(self, counts: Sequence[int]) -> None:
        """Leave the likeliest so many of each row, and what weighs as much as the last of them."""
        limited = [index for index, count in enumerate(counts) if 0 < count < self._vocabulary]
        if not limited:
            return
        likeliest = self._all[limited] if len(limited) < len(counts) else self._all
        top = likeliest.topk(max(counts[index] for index in limited)).values
        place = torch.tensor([[counts[index] - 1] for index in limited], device=top.device)
        least = self._all.new_zeros(len(counts), 1)
        least[limited] = top.gather(1, place)
        self._all.masked_fill_(self._all < least, 0.0)
