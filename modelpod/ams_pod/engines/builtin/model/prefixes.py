"""Keys and values that outlive their requests: what prompts begin with alike is read once.

Blocks are copied out of the pool when a prompt was read and when a request ends, and into it when a prompt is begun
that begins alike. Copying a token takes a hundredth of computing it, and a copy shares nothing with a running request:
what fails or is cancelled can't spoil what is kept, and whoever is running isn't disturbed by what is dropped.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.pool import KeyValuePool, release_pages, zeros
from ams_pod.engines.builtin.model.prefix_tree import BLOCK, PrefixTree


class Prefixes:
    """Room for `tokens`, in whole blocks, beside a pool. For the compute thread."""

    def __init__(self, pool: KeyValuePool, tokens: int) -> None:
        self._pool = pool
        blocks = tokens // BLOCK
        self.tree = PrefixTree(blocks)
        shape = (2 * blocks, pool.heads, BLOCK, pool.head_size)
        layer = pool.layers[0]
        made = [zeros(shape, layer.dtype, pool.device) for _ in pool.layers] if blocks else []
        # Of a layer [keys or values, block, key head, token, head size].
        self._layers = [tensor.view(2, blocks, *shape[1:]) for tensor, _ in made]
        self._pages = [pages for _, pages in made if pages is not None]

    @property
    def tokens(self) -> int:
        """How many are kept."""
        return len(self.tree) * BLOCK

    def count(self, salt: str, content: Sequence[int]) -> int:
        """How many tokens of a prompt's beginning are kept."""
        return self.tree.count(salt, content)

    @torch.inference_mode()
    def load(self, salt: str, content: Sequence[int], slot: int) -> int:
        """Copy the longest beginning that is kept into a slot, which has room for it; how many tokens that is."""
        numbers = self.tree.find(salt, content)
        if not numbers:
            return 0
        place, blocks = self._pool.place(slot), self._where(numbers)
        for layer, kept in enumerate(self._layers):
            for half, target in enumerate(self._pool.keys(layer, place)):
                _blocks(target, 0, len(numbers)).copy_(kept[half][blocks].transpose(0, 1))
        return len(numbers) * BLOCK

    @torch.inference_mode()
    def save(self, salt: str, content: Sequence[int], slot: int) -> None:
        """Keep what a slot holds of these tokens, as far as there is room."""
        added = self.tree.add(salt, content)
        if not added:
            return
        first = added[0][0] // BLOCK
        numbers = [number for _, number in added]
        place, blocks = self._pool.place(slot), self._where(numbers)
        try:
            for layer, kept in enumerate(self._layers):
                for half, source in enumerate(self._pool.keys(layer, place)):
                    kept[half][blocks] = _blocks(source, first, len(numbers)).transpose(0, 1)
        except BaseException:
            self.tree.remove(set(numbers))  # nobody knows what they hold
            raise

    def drop(self) -> None:
        """Forget everything, and give its memory back."""
        self.tree.clear()
        for pages in self._pages:
            release_pages(pages, 0, len(pages))

    def _where(self, numbers: Sequence[int]) -> slice | Tensor:
        """An index of these blocks: mostly they follow each other, and need not be gathered."""
        first = numbers[0]
        if list(numbers) == list(range(first, first + len(numbers))):
            return slice(first, first + len(numbers))
        return torch.tensor(numbers, device=self._pool.device)


def _blocks(extent: Tensor, first: int, count: int) -> Tensor:
    """[1, key heads, capacity, head size] as [key heads, blocks, tokens of a block, head size]."""
    return extent[0, :, first * BLOCK : (first + count) * BLOCK].unflatten(1, (count, BLOCK))
