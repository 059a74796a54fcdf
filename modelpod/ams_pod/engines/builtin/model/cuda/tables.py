"""What a step's kernels read of where tokens lie, and which tokens of prompts are computed as if each were a row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.extents import Extent

NOWHERE = -1
_KEYS_OF_A_CHUNK = 1 << 15  # keys that are read in vain, as the tokens of a chunk don't share them
_KEYS_OF_A_STEP = 1 << 17

Place = tuple[Extent, int, int]
"""An extent, and the first token and the end there of what a step computes."""


def as_rows(chunks: Sequence[Place]) -> list[bool]:
    """Which chunks are read as if each token were a row of its own: it saves a call, and keys are read again instead.

    Those that are short, or begin their prompt, as far as a step may do so.
    """
    result, left = [], _KEYS_OF_A_STEP
    for _, start, end in chunks:
        keys = (end - start) * end
        result.append(keys <= min(_KEYS_OF_A_CHUNK, left))
        if result[-1]:
            left -= keys
    return result


def token_table(places: Sequence[Place], heads: int) -> Tensor:
    """Of each token of a step, int64 [5, tokens].

    The row of its first head in a layer, how far apart heads are, the row of the first key that it sees, the capacity
    of its extent and how many keys it sees.
    """
    at = torch.tensor([token for _, start, end in places for token in range(start, end)], dtype=torch.int64)
    counts = torch.tensor([end - start for _, start, end in places], dtype=torch.int64)
    bases = torch.tensor([[place.offset * heads, place.capacity] for place, _, _ in places], dtype=torch.int64)
    first, capacity = bases.view(-1, 2).repeat_interleave(counts, 0).t()
    return torch.stack((first + at, capacity, first, capacity, at + 1))


def graph_table(size: int, ids: Sequence[int], positions: Sequence[int], tokens: Tensor) -> Tensor:
    """All that a graph of `size` tokens reads, int64 [7, size]: ids, positions, and what `token_table` has of them."""
    table = torch.zeros(7, size, dtype=torch.int64)
    count = len(ids)
    table[0, :count] = torch.tensor(ids)
    table[1, :count] = torch.tensor(positions)
    table[2, count:] = NOWHERE
    table[2:, :count] = tokens
    return table
