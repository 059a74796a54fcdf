"""Blocks of GGUF's kinds of tensors as grouped weights: the file's own codes and scales, laid out for the kernels.

In numpy, as the process that converts needs no torch for it. The layout is that of `grouped`, the blocks are those of
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ams_pod.engines.builtin.model.gguf_file import BLOCKS
from ams_pod.engines.builtin.model.group_layouts import (
    AFFINE_4,
    AFFINE_5,
    BLOCKS_4,
    BLOCKS_5,
    BLOCKS_6,
    CENTRED_4,
    CENTRED_5,
    CENTRED_8,
    GROUP,
    TILE,
    Layout,
)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float16]


@dataclass(frozen=True, slots=True)
class _Weights:
    """Codes [rows, inputs]; factors [rows, groups, n] of one type; heads [rows, blocks, n]."""

    codes: Bytes
    factors: NDArray[np.generic]
    heads: Floats | None = None


def layout_of_kind(kind: str) -> Layout | None:
    """How weights of tensors of the kind lie here; None for one that isn't grouped."""
    found = _KINDS.get(kind)
    return found[0] if found else None


def group_rows(kind: str, rows: Bytes) -> Bytes:
    """[tiles, blocks, bytes] of rows [n, bytes] of the file's blocks; n is filled up to a multiple of 16 with zeros."""
    layout, read = _KINDS[kind]
    return _pack(read(rows.reshape(len(rows), -1, BLOCKS[kind][1])), layout)


def _pack(weights: _Weights, layout: Layout) -> Bytes:
    tiles, blocks, size = layout.shape(*weights.codes.shape)
    packed = np.empty((tiles, blocks, size), np.uint8)
    if weights.heads is not None:
        heads = _lanes(weights.heads, (blocks, -1))
        packed[..., : layout.head] = heads.reshape(tiles, blocks, -1).view(np.uint8)
    body = packed[..., layout.head :].reshape(tiles, blocks, layout.groups, layout.group_size)  # a view where it can be
    factors = _lanes(weights.factors, (blocks, layout.groups, -1))
    body[..., : layout.factors] = factors.reshape(*body.shape[:3], -1).view(np.uint8)
    quads = _lanes(weights.codes.view(np.uint32), (blocks, layout.groups, 8))
    body[..., layout.factors :] = _vectors(quads, layout.bits).reshape(*body.shape[:3], -1).view(np.uint8)
    packed[..., layout.head :] = body.reshape(tiles, blocks, -1)
    return packed


def _lanes(values: NDArray[np.generic], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """[tiles, *shape, 16] of [rows, ...]: the outputs of a tile beside each other, the last ones filled up."""
    missing = -len(values) % TILE
    values = values.reshape(len(values), *shape)
    if missing:
        values = np.pad(values, ((0, missing), *((0, 0),) * len(shape)))
    tiles = values.reshape(-1, TILE, *values.shape[1:])
    return np.ascontiguousarray(np.moveaxis(tiles, 1, -1))


def _vectors(quads: NDArray[np.generic], bits: int) -> NDArray[np.uint32]:
    """Codes as the layout has them, [..., bits, 16] of four in each number [..., 8, 16]."""
    four: NDArray[np.uint32] = quads.view(np.uint32)
    if bits == 8:
        return four
    low = four & np.uint32(0x0F0F0F0F)
    vectors = low[..., :4, :] | low[..., 4:, :] << np.uint32(4)
    if bits == 4:
        return vectors
    high = four >> np.uint32(4) & np.uint32(0x01010101 if bits == 5 else 0x03030303)
    if bits == 5:
        places = np.arange(8, dtype=np.uint32)[:, None]
        above = np.bitwise_or.reduce(high << places, -2, keepdims=True)
    else:
        places = np.arange(0, 8, 2, dtype=np.uint32)[:, None]
        halves = high.reshape(*high.shape[:-2], 2, 4, TILE)
        above = np.bitwise_or.reduce(halves << places, -2)
    return np.concatenate((vectors, above), -2)


def _halves(blocks: Bytes, start: int, count: int = 1) -> Floats:
    """float16 numbers of each block, [rows, blocks, count]."""
    return np.ascontiguousarray(blocks[..., start : start + 2 * count]).view(np.float16)


def _nibbles(codes: Bytes) -> Bytes:
    return np.concatenate((codes & 15, codes >> 4), -1)


def _fifth_bits(words: Bytes) -> Bytes:
    """Bit i of 32 as 16 in the place of the i-th code."""
    return np.unpackbits(np.ascontiguousarray(words), axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> _Weights:
    return _of_groups(_nibbles(blocks[..., 2:]), _halves(blocks, 0))


def _q4_1(blocks: Bytes) -> _Weights:
    return _of_groups(_nibbles(blocks[..., 4:]), _halves(blocks, 0, 2))


def _q5_0(blocks: Bytes) -> _Weights:
    return _of_groups(_nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), _halves(blocks, 0))


def _q5_1(blocks: Bytes) -> _Weights:
    return _of_groups(_nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), _halves(blocks, 0, 2))


def _q8_0(blocks: Bytes) -> _Weights:
    return _of_groups(blocks[..., 2:] ^ np.uint8(0x80), _halves(blocks, 0))


def _q4_k(blocks: Bytes) -> _Weights:
    codes = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    return _of_blocks(np.stack((codes & 15, codes >> 4), 3), _k_factors(blocks), _halves(blocks, 0, 2))


def _q5_k(blocks: Bytes) -> _Weights:
    codes = blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)
    low = np.stack((codes & 15, codes >> 4), 3).reshape(*blocks.shape[:2], 8, GROUP)
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high = (blocks[..., None, 16:48] >> shifts & np.uint8(1)) << np.uint8(4)  # bit g of byte i: code i of group g
    return _of_blocks(low | high, _k_factors(blocks), _halves(blocks, 0, 2))


def _q6_k(blocks: Bytes) -> _Weights:
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 1, 64)
    low = (low >> np.array([0, 4], np.uint8)[:, None] & np.uint8(15)).reshape(*blocks.shape[:2], 8, GROUP)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)).reshape(*blocks.shape[:2], 8, GROUP)
    factors = blocks[..., 192:208].reshape(*blocks.shape[:2], 8, 2)
    return _of_blocks(low | high << np.uint8(4), factors, _halves(blocks, 208))


def _k_factors(blocks: Bytes) -> Bytes:
    """[rows, blocks, 8 groups, 2]: the whole numbers of scales and of offsets, from twelve bytes of 6-bit numbers."""
    first, second, third = (blocks[..., start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    offsets = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    return np.stack((scales, offsets), -1)


def _of_groups(codes: Bytes, factors: Floats) -> _Weights:
    return _Weights(np.ascontiguousarray(codes).reshape(len(codes), -1), factors)


def _of_blocks(codes: Bytes, factors: Bytes, heads: Floats) -> _Weights:
    return _Weights(np.ascontiguousarray(codes).reshape(len(codes), -1), factors, heads)


_KINDS: dict[str, tuple[Layout, Callable[[Bytes], _Weights]]] = {
    "Q4_0": (CENTRED_4, _q4_0), "Q4_1": (AFFINE_4, _q4_1), "Q5_0": (CENTRED_5, _q5_0), "Q5_1": (AFFINE_5, _q5_1),
    "Q8_0": (CENTRED_8, _q8_0), "Q4_K": (BLOCKS_4, _q4_k), "Q5_K": (BLOCKS_5, _q5_k), "Q6_K": (BLOCKS_6, _q6_k),
}  # fmt: skip
