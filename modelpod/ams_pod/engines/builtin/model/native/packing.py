"""Weights in the layout that the compiled kernels read: tiles of 16 outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ams_pod.engines.builtin.compiled import LinearC
from ams_pod.engines.builtin.model.group_layouts import TILE, Layout
from ams_pod.engines.builtin.model.native.kept_tiles import KeptTiles
from ams_pod.engines.builtin.model.pool import zeros

BF16 = 16
"""Number of the layout of bfloat16 weights, beside those of `group_layouts`."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A linear layer as the kernels take it. `weights` and `bias` own the memory that `c` points to."""

    c: LinearC
    weights: Tensor
    bias: Tensor | None


class Arena:
    """Memory for the tiles of many layers in huge pages: fewer misses of the address cache while they are read."""

    def __init__(self, elements: int, kept: KeptTiles | None = None) -> None:
        """`filled`: `kept` has had the tiles of all layers, in the order in which they are taken."""
        mapped = None if kept is None else kept.map(elements)
        self.filled = mapped is not None
        self._memory = zeros((max(1, elements),), torch.bfloat16, "cpu", huge=True)[0] if mapped is None else mapped
        self._used = 0
        if kept is not None and mapped is None and elements:
            kept.take(self._memory)

    def take(self, elements: int) -> Tensor:
        taken = self._memory[self._used : self._used + elements]
        self._used += -(-elements // 32) * 32  # begins of cache lines
        return taken


def tiled_elements(modules: Sequence[nn.Linear]) -> int:
    """How many elements an arena for these needs."""
    return sum(-(-(_tiles(module.out_features) * TILE * module.in_features) // 32) * 32 for module in modules)


def pack(module: nn.Linear, arena: Arena) -> Packed:
    """A plain bfloat16 layer [outputs, k]: [tiles, k / 2, 16 outputs, 2] in the arena."""
    outputs, k = module.out_features, module.in_features
    tiles, whole = _tiles(outputs), outputs // TILE
    target = arena.take(tiles * TILE * k)
    if arena.filled:
        return _packed(module, target, BF16)
    # A pair of inputs as one number, which torch moves faster than two.
    pairs = target.view(torch.int32).view(tiles, k // 2, TILE)
    rows = module.weight.data.contiguous().view(torch.int32)
    pairs[:whole] = rows[: whole * TILE].view(whole, TILE, k // 2).transpose(1, 2)
    if whole < tiles:
        rest = rows[whole * TILE :]
        pairs[whole].zero_()
        pairs[whole][:, : len(rest)] = rest.transpose(0, 1)
    return _packed(module, target, BF16)


def packed_as_is(module: nn.Linear, codes: Tensor, layout: Layout) -> Packed:
    """Grouped weights, which are stored in the kernels' layout."""
    return _packed(module, codes, layout.number)


def _packed(module: nn.Linear, weights: Tensor, layout: int) -> Packed:
    bias = None if module.bias is None else module.bias.data.float().contiguous()
    place = None if bias is None else bias.data_ptr()
    c = LinearC(module.out_features, module.in_features, weights.data_ptr(), place, layout, 0)
    return Packed(c, weights, bias)


def _tiles(outputs: int) -> int:
    return -(-outputs // TILE)
