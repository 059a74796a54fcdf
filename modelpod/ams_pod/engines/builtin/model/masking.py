"""Tokens that rows may not choose, as bits that are computed beside a step and laid over its logits."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ams_pod.engines.builtin.model.transfer import on_device, row_by_row

_BITS = 8


class Masks:
    """`allowed` [masked rows, bytes] has a bit for each token of the vocabulary, the first in the lowest place.

    `rows` are the places of these rows in the batch.
    """

    def __init__(self, rows: Sequence[int], allowed: Tensor) -> None:
        self.rows, self.allowed = rows, allowed

    def apply(self, values: Tensor) -> None:
        """Take what isn't allowed out of logits [rows, vocabulary and beyond], in place."""
        table = _table(values.device)
        covered = min(self.allowed.shape[1] * _BITS, values.shape[1])
        if row_by_row(values.device):  # numpy looks up much faster than torch
            forbidden = torch.empty(self.allowed.shape[1], _BITS)
            added = forbidden.view(-1)[:covered]
            for row, bits in zip(self.rows, self.allowed, strict=True):
                np.take(table.numpy(), bits.numpy(), axis=0, out=forbidden.numpy(), mode="clip")
                values[row, :covered].add_(added)
                values[row, covered:] = float("-inf")
            return
        forbidden = table[on_device(self.allowed, values.device).int()].flatten(1)[:, :covered]
        where = on_device(torch.tensor(self.rows), values.device)
        values[:, :covered].index_add_(0, where, forbidden)
        if covered < values.shape[1]:
            values[:, covered:].index_fill_(0, where, float("-inf"))


_tables: dict[torch.device, Tensor] = {}


def _table(device: torch.device) -> Tensor:
    """What is added to the logits [256, 8] of eight tokens, by the byte that says which of them are allowed."""
    if device not in _tables:
        bits = torch.arange(256)[:, None] >> torch.arange(_BITS) & 1
        _tables[device] = torch.where(bits == 1, 0.0, float("-inf")).to(device)
    return _tables[device]
