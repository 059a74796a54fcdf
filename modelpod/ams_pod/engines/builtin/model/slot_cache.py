"""Keys and values of all requests: one slot a request, so that a batch of rows is a plain view."""

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

# Rows of a batch differ in length; one attention call over rows [first, end) reads `width` keys of each of them.
Segment = tuple[int, int, int]

_WIDTH_STEP = 16
_CALL_COST = 96  # an attention call costs about as much as this many keys of one row


class SlotCache:
    """Keys and values as [slots, length, 2 * key heads, head size] for each layer: keys first, then values.

    On CPU the memory is anonymous zero pages: it counts only once it is written.
    """

    def __init__(
        self, layers: int, slots: int, length: int, key_heads: int, head_size: int, dtype: torch.dtype, device: str
    ) -> None:
        shape = (slots, length, 2 * key_heads, head_size)
        self.slots, self.length = slots, length
        self.bytes_per_token = layers * 2 * key_heads * head_size * dtype.itemsize
        self._slot_bytes = length * 2 * key_heads * head_size * dtype.itemsize
        made = [_zeros(shape, dtype, device) for _ in range(layers)]
        self.layers = [tensor for tensor, _ in made]
        self._pages = [pages for _, pages in made if pages is not None]

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` of a slot over another."""
        for layer in self.layers:
            layer[target, :tokens] = layer[source, :tokens]

    def release(self, slots: int) -> None:
        """Give back the memory behind the first `slots`; what was there reads as zeros. CPU only."""
        start = -(-slots * self._slot_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        for pages in self._pages:
            if start < len(pages) and hasattr(mmap, "MADV_REMOVE"):
                pages.madvise(mmap.MADV_REMOVE, start, len(pages) - start)


def segments(slots: Sequence[int], lengths: Sequence[int], limit: int) -> list[Segment]:
    """Split rows, in order, into attention calls so that short rows aren't padded to a long one.

    `lengths` are keys to read of each row; widths are rounded up and at most `limit`. Neighbours are merged while
    padding costs less than another call. Rows whose `slots` don't follow each other are no view, and so no one call.
    """
    result: list[Segment] = []
    for row, length in enumerate(lengths):
        width = min(limit, -(-length // _WIDTH_STEP) * _WIDTH_STEP)
        result.append((row, row + 1, width))
        while len(result) > 1:
            (first, middle, left), (_, end, right) = result[-2:]
            if slots[middle] != slots[middle - 1] + 1:
                break
            merged = max(left, right)
            padding = (middle - first) * (merged - left) + (end - middle) * (merged - right)
            if padding > _CALL_COST:
                break
            result[-2:] = [(first, end, merged)]
    return result


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> tuple[Tensor, mmap.mmap | None]:
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device), None
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape), pages
