"""Tokens drawn from what temperature, top_k, top_p and min_p leave, of many rows at once and without sorting them.

A token is drawn from all that top_k leaves, and again where it is none that top_p keeps: so it is distributed as if the
vocabulary had been sorted (rejection sampling, as in FlashInfer). What was left out, and all that weighs no more, isn't
drawn again. On a CPU, what concerns single rows is done row by row, while a row is in the core's cache; a GPU does
all rows at once, several rounds before the host looks for whom that wasn't enough.
"""

import random
from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ams_pod.engines.builtin.model.transfer import on_device, row_by_row
from ams_pod.engines.port import Sampling

AGAIN = -2
"""In place of a token that is yet to be drawn."""

BLOCK = 128
"""Tokens whose weights are added up before one of them is looked for; rows are made of whole blocks."""

_LEAST_TEMPERATURE = 1e-3
_MOST_DRAWS = 64  # each leaves out more; nobody has seen ten
_DRAWS_ON_A_GPU = 4


class Drawn(Protocol):
    """A row that is drawn for."""

    @property
    def sampling(self) -> Sampling: ...

    @property
    def random(self) -> random.Random: ...


class Drawing:
    """`tokens` [rows] of one step, AGAIN where `draw_again` has to be asked."""

    def __init__(
        self, values: Tensor, vocabulary: int, highest: Tensor, likeliest: Tensor, rows: Sequence[Drawn]
    ) -> None:
        """From logits [rows, blocks * BLOCK], which are overwritten; `likeliest` [rows] have the `highest` ones.

        A row of which the highest is no finite number keeps its likeliest token.
        """
        self._rows, self._vocabulary = rows, vocabulary
        self._device, self._on_cpu = values.device, row_by_row(values.device)
        self._likeliest = likeliest
        self._draws = 0
        samplings = [row.sampling for row in rows]
        sharpness = [1.0 / max(sampling.temperature, _LEAST_TEMPERATURE) for sampling in samplings]
        # What tokens weigh, the likeliest 1.
        self._weights = values.sub_(highest[:, None]).mul_(self._column(sharpness)).exp_()
        self._keep_top_k([sampling.top_k for sampling in samplings])
        self._sum_blocks()
        self._limited = [index for index, sampling in enumerate(samplings) if sampling.top_p < 1.0]
        if self._limited:
            # Of the mass that top_k leaves; min_p comes after it.
            shares = [sampling.top_p if sampling.top_p < 1.0 else 2.0 for sampling in samplings]
            self._most_above = self._sums[:, -1:] * self._column(shares)
        if any(sampling.min_p > 0.0 for sampling in samplings):
            self._keep_from([min(sampling.min_p, 1.0) for sampling in samplings])
            self._sum_blocks()
        self.tokens = torch.where(highest.isfinite(), AGAIN, likeliest)
        self._draw(range(len(rows)))

    def draw_again(self, again: Sequence[int]) -> Tensor:
        """For the rows of these numbers; `tokens` as they are then."""
        if self._draws >= _MOST_DRAWS:
            self.tokens = torch.where(self.tokens == AGAIN, self._likeliest, self.tokens)
        else:
            self._draw(again)
        return self.tokens

    def _draw(self, again: Sequence[int]) -> None:
        """A row's draws depend on itself alone: who has a token already draws no further numbers."""
        draws = 1 if self._on_cpu else _DRAWS_ON_A_GPU
        self._draws += draws
        uniform = torch.zeros(draws, len(self._rows), dtype=torch.double)
        for index in again:
            generator = self._rows[index].random
            for draw in range(draws):
                uniform[draw, index] = generator.random()
        for row in on_device(uniform, self._device)[: draws if self._limited else 1]:
            token, weight = self._at(row[:, None])
            token = torch.where(weight > 0, token, AGAIN)  # rounding may lead to a neighbour that weighs nothing
            if self._limited:
                outside = self._outside(weight[:, 0], again)
                token = token.masked_fill(outside[:, None], AGAIN)
            self.tokens = torch.where(self.tokens == AGAIN, token[:, 0], self.tokens)

    def _at(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """(token, its weight) [rows, 1] at so much (0 to 1) of each row's weight."""
        target = uniform * self._sums[:, -1:]
        block = torch.searchsorted(self._sums, target, right=True).clamp_(max=self._sums.shape[1] - 1)
        before = torch.where(block > 0, self._sums.gather(1, (block - 1).clamp_(min=0)), 0.0)
        weights = self._blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0]
        at = torch.searchsorted(weights.double().cumsum(-1) + before, target, right=True).clamp_(max=BLOCK - 1)
        return block * BLOCK + at, weights.gather(1, at)

    def _outside(self, weight: Tensor, again: Sequence[int]) -> Tensor:
        """Which rows [rows] drew a token of `weight` [rows] that top_p leaves out; it isn't drawn again."""
        if not self._on_cpu:
            above = torch.where(self._weights > weight[:, None], self._weights, 0.0).sum(-1, keepdim=True)
            outside = ((above >= self._most_above) & (above > 0))[:, 0]
            limit = torch.where(outside, weight, -1.0)[:, None]
            self._weights.masked_fill_(self._weights <= limit, 0.0)
            self._sum_blocks()
            return outside
        outside = torch.zeros(len(self._rows), dtype=torch.bool)
        limited = set(self._limited)
        for index in again:
            if index not in limited:
                continue
            row, drawn = self._weights[index], float(weight[index])
            above = float(F.threshold(row, drawn, 0.0).sum())
            if above > 0.0 and above >= float(self._most_above[index]):
                outside[index] = True
                torch.threshold_(row, drawn, 0.0)
                self._sums[index] = self._blocks[index].sum(-1).double().cumsum(-1)
        return outside

    @property
    def _blocks(self) -> Tensor:
        return self._weights.view(len(self._weights), -1, BLOCK)

    def _sum_blocks(self) -> None:
        self._sums = self._blocks.sum(-1).double().cumsum(-1)

    def _keep_top_k(self, counts: Sequence[int]) -> None:
        """Leave the likeliest so many of each row, and what weighs as much as the last of them."""
        limited = [index for index, count in enumerate(counts) if 0 < count < self._vocabulary]
        if not limited:
            return
        whole = len(limited) == len(counts)
        where = on_device(torch.tensor(limited), self._device)
        most = max(counts[index] for index in limited)
        likeliest = self._weights if whole else self._weights[where]
        if 2 * most < likeliest.shape[1] // BLOCK:
            # They lie in as many blocks, those with the highest maxima.
            blocks = likeliest.view(len(limited), -1, BLOCK)
            best = blocks.amax(-1).topk(most).indices
            likeliest = blocks.gather(1, best[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
        place = on_device(torch.tensor([[counts[index] - 1] for index in limited]), self._device)
        least = likeliest.topk(most).values.gather(1, place)[:, 0]
        if not whole:
            least = least.new_zeros(len(counts)).index_copy(0, where, least)
        if not self._on_cpu:
            self._weights.masked_fill_(self._weights < least[:, None], 0.0)
        else:
            self._keep_from(least.tolist())

    def _keep_from(self, least: Sequence[float]) -> None:
        """Leave in each row what weighs at least so much."""
        if not self._on_cpu:
            self._weights.masked_fill_(self._weights < self._column(least), 0.0)
            return
        below = torch.nextafter(torch.tensor(least, dtype=torch.float32), torch.tensor(0.0)).tolist()
        for index, limit in enumerate(below):
            if least[index] > 0.0:
                torch.threshold_(self._weights[index], limit, 0.0)

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return on_device(torch.tensor(numbers, dtype=torch.float32), self._device)[:, None]
