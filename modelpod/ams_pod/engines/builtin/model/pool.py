"""Keys and values of all requests in one memory: each request has an extent of it, as large as it needs."""

import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from ams_pod.engines.builtin.model.extents import Extent, Extents, capacity_for, packed


class PoolFull(RuntimeError):
    """No extent is free that is large enough."""

    def __init__(self, tokens: int, free: int) -> None:
        super().__init__(f"{tokens} tokens of cache were asked for; {free} are free")


class KeyValuePool:
    """`tokens` of keys and values a layer. In an extent lie the keys of its first head, then those of the next.

    A layer is [2 * tokens * key heads, head size]: all keys, then all values in the same order. On a CPU the memory is
    anonymous zero pages: it counts only once it is written, and low places are given first.
    """

    def __init__(
        self,
        layers: int,
        tokens: int,
        longest: int,
        key_heads: int,
        head_size: int,
        dtype: torch.dtype,
        device: str,
    ) -> None:
        """`longest` is how many tokens one request may have."""
        self.tokens, self.longest, self.heads, self.head_size = tokens, longest, key_heads, head_size
        self.device = device
        self.bytes_per_token = layers * 2 * key_heads * head_size * dtype.itemsize
        made = [zeros((2 * tokens * key_heads, head_size), dtype, device) for _ in range(layers)]
        self.layers = [tensor for tensor, _ in made]
        self._pages = [pages for _, pages in made if pages is not None]
        self._extents = Extents(tokens)
        self._places: dict[int, Extent] = {}
        half = tokens * key_heads
        heads = torch.arange(key_heads, device=device)
        self._steps = torch.stack((heads, heads)).view(-1)
        self._halves = torch.tensor([0, half], device=device).repeat_interleave(key_heads)

    @property
    def free(self) -> int:
        """Tokens that nobody's extent has."""
        return self._extents.free

    def capacity_for(self, tokens: int) -> int:
        """How many tokens of the pool a request of so many takes."""
        return capacity_for(tokens, self.longest)

    def place(self, slot: int) -> Extent:
        return self._places[slot]

    def reserve(self, slot: int, tokens: int, used: int, *, may_pack: bool = True, keep: int = 0) -> bool:
        """Room for `tokens` in a slot, which `used` of them are in; False if there is none, and all is as it was.

        What is in the slot moves along. `may_pack`: other slots may be moved too. So many tokens as `keep` stay free.
        """
        place = self._places.get(slot)
        if place is not None and place.capacity >= tokens:
            return True
        capacity = self.capacity_for(tokens)
        own = place.capacity if place is not None else 0
        if self._extents.free + own - capacity < keep:
            return False
        if (found := self._extents.take(capacity)) is not None:
            if place is not None:
                self._move(place, found, used)
                self._extents.give(place)
            self._places[slot] = found
            return True
        if not may_pack or self._extents.free + own < capacity:
            return False
        self._pack_around(slot, capacity, used)
        return True

    def vacate(self, slot: int) -> None:
        """Nothing of this slot is needed any more."""
        if (place := self._places.pop(slot, None)) is not None:
            self._extents.give(place)

    def compact(self, order: Sequence[int], lengths: Sequence[int]) -> None:
        """What is in slot i now was in slot order[i], and holds lengths[i] tokens; all other slots were left.

        Those furthest up move into the holes, so that attention finds what it reads side by side.
        """
        old, left = self._places, set(self._places) - set(order)
        for slot in left:
            self._extents.give(old[slot])
        self._places = {slot: old[source] for slot, source in enumerate(order) if source in old}
        for _ in left:
            if not self._tidy(lengths):
                break

    def clear(self) -> None:
        self._places, self._extents = {}, Extents(self.tokens)

    def release(self) -> None:
        """Give back the memory behind the last extent; what was there reads as zeros. CPU only."""
        used = self._extents.end * self.heads * self.head_size * self.layers[0].dtype.itemsize
        for pages in self._pages:
            for start, end in ((used, len(pages) // 2), (len(pages) // 2 + used, len(pages))):
                release_pages(pages, start, end)

    def keys(self, layer: int, place: Extent, count: int = 1) -> tuple[Tensor, Tensor]:
        """Keys and values [count, key heads, capacity, head size] of extents of one class that follow each other."""
        size = place.capacity * self.heads
        start, half = place.offset * self.heads, self.tokens * self.heads
        shape = (count, self.heads, place.capacity, self.head_size)
        flat = self.layers[layer]
        end = start + count * size
        return flat[start:end].view(shape), flat[half + start : half + end].view(shape)

    def rows_of(self, places: Sequence[tuple[Extent, int, int]]) -> Tensor:
        """Where the tokens `start` to `end` of extents lie in a layer: [tokens * 2 * key heads], keys then values."""
        starts: list[int] = []
        strides: list[int] = []
        for place, start, end in places:
            base = place.offset * self.heads
            starts.extend(range(base + start, base + end))
            strides.extend([place.capacity] * (end - start))
        tokens = torch.tensor([starts, strides], device=self.device)
        return (tokens[0, :, None] + self._steps * tokens[1, :, None] + self._halves).view(-1)

    def _tidy(self, lengths: Sequence[int]) -> bool:
        """Move the extent furthest up into a hole below it; False if no hole is large enough."""
        for slot, place in sorted(self._places.items(), key=lambda item: -item[1].offset):
            if (found := self._extents.take(place.capacity, below=place.offset)) is not None:
                self._move(place, found, lengths[slot])
                self._extents.give(place)
                self._places[slot] = found
                return True
        return False

    def _pack_around(self, slot: int, capacity: int, used: int) -> None:
        """All other extents to the bottom, in their order, and this slot's, now so large, behind them."""
        old = self._places
        moved = packed({other: place for other, place in old.items() if other != slot})
        taken = sum(place.capacity for place in moved.values())
        own, mine = Extent(taken, capacity), old.get(slot)
        order = sorted(moved, key=lambda other: moved[other])
        for layer in range(len(self.layers)):
            kept = [] if mine is None else [each[:, :, :used].clone() for each in self.keys(layer, mine)]
            for other in order:
                if old[other] != moved[other]:
                    pairs = zip(self.keys(layer, old[other]), self.keys(layer, moved[other]), strict=True)
                    for source, target in pairs:
                        target.copy_(source.clone())  # they may overlap
            for saved, target in zip(kept, self.keys(layer, own), strict=False):
                target[:, :, :used] = saved
        self._places = {**moved, slot: own}
        self._extents = Extents(self.tokens)
        self._extents.take(own.end)

    def _move(self, source: Extent, target: Extent, tokens: int) -> None:
        for layer in range(len(self.layers)):
            for old, new in zip(self.keys(layer, source), self.keys(layer, target), strict=True):
                new[:, :, :tokens] = old[:, :, :tokens]


def zeros(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, *, huge: bool = False
) -> tuple[Tensor, mmap.mmap | None]:
    """A tensor, and its pages where it lies in memory of its own.

    `huge`: in pages of 2 MiB where the system has them, for what is written as a whole and read at every step. Only
    private memory gets them: what is shared is a file in memory, for which they are mostly switched off.
    """
    if device != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device), None
    size = dtype.itemsize
    for extent in shape:
        size *= extent
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if huge and hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape), pages


def release_pages(pages: mmap.mmap, start: int, end: int) -> None:
    """Give back the whole pages between two bytes of `zeros`, where that works; what was there reads as zeros."""
    start = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    end = end if end == len(pages) else end // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end and sys.platform == "linux":  # elsewhere the advice may be ignored, and old values be read
        pages.madvise(mmap.MADV_DONTNEED, start, end - start)
