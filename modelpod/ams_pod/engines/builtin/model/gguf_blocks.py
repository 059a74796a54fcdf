"""Blocks of GGUF's kinds of tensors as grouped weights: the file's own codes and scales, laid out for the kernels.

In numpy, as the process that converts needs no torch for it. The layout is that of `grouped`, the blocks are those of
https://github.com/ggml-org/ggml/blob/master/src/ggml-common.h.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ams_pod.engines.builtin.model.gguf_file import BLOCKS

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float16]
# Codes [rows, groups, 32], s and m [rows, groups].
Codes = tuple[Bytes, Floats, Floats]

_GROUP, _TILE, _FACTORS = 32, 16, 64


def grouped_bits(kind: str) -> int | None:
    """In how many bits tensors of the kind are grouped; None for one that isn't."""
    return 4 if kind in ("Q4_0", "Q4_1", "Q4_K") else 8 if kind in _READERS else None


def is_exact(kind: str) -> bool:
    """Whether the weights stay the same to the bit: Q4_K's and Q5_K's scales are rounded, Q6_K's codes are others."""
    return kind not in ("Q4_K", "Q5_K", "Q6_K")


def group_rows(kind: str, rows: Bytes) -> Bytes:
    """[tiles, groups, bytes] of rows [n, bytes] of blocks; n is filled up to a multiple of 16 with zeros."""
    blocks = rows.reshape(len(rows), -1, BLOCKS[kind][1])
    with np.errstate(over="ignore", invalid="ignore"):  # what is no number stays none, and is found when it computes
        q, s, m = _READERS[kind](blocks)
        return _pack(q, s, m, grouped_bits(kind) or 8)


def _pack(q: Bytes, s: Floats, m: Floats, bits: int) -> Bytes:
    outputs, groups = s.shape
    tiles = -(-outputs // _TILE)
    if missing := tiles * _TILE - outputs:
        q = np.pad(q, ((0, missing), (0, 0), (0, 0)))
        s, m = (np.pad(values, ((0, missing), (0, 0))) for values in (s, m))
    packed = np.empty((tiles, groups, _FACTORS + 64 * bits), np.uint8)
    factors = packed[..., :_FACTORS].view(np.float16).reshape(tiles, groups, 2, _TILE)
    factors[:, :, 0] = s.reshape(tiles, _TILE, groups).transpose(0, 2, 1)
    factors[:, :, 1] = m.reshape(tiles, _TILE, groups).transpose(0, 2, 1)
    packed[..., :_FACTORS] = factors.reshape(tiles, groups, -1).view(np.uint8)
    if bits == 4:
        q = q[..., :16] | (q[..., 16:] << np.uint8(4))
    quads = np.ascontiguousarray(q).view(np.uint32).reshape(tiles, _TILE, groups, bits).transpose(0, 2, 3, 1)
    packed[..., _FACTORS:] = np.ascontiguousarray(quads).view(np.uint8).reshape(tiles, groups, -1)
    return packed


def _halves(blocks: Bytes, start: int, count: int = 1) -> Floats:
    """float16 numbers of each block, [rows, blocks, count]."""
    return np.ascontiguousarray(blocks[..., start : start + 2 * count]).view(np.float16)


def _nibbles(codes: Bytes) -> Bytes:
    return np.concatenate((codes & 15, codes >> 4), -1)


def _fifth_bits(words: Bytes) -> Bytes:
    """Bit i of 32 as 16 in the place of the i-th code."""
    return np.unpackbits(np.ascontiguousarray(words), axis=-1, bitorder="little") << np.uint8(4)


def _q4_0(blocks: Bytes) -> Codes:
    d = _halves(blocks, 0)[..., 0]
    return _nibbles(blocks[..., 2:]), d, d * np.float16(-8)


def _q4_1(blocks: Bytes) -> Codes:
    d, m = np.moveaxis(_halves(blocks, 0, 2), -1, 0)
    return _nibbles(blocks[..., 4:]), d, m


def _q5_0(blocks: Bytes) -> Codes:
    d = _halves(blocks, 0)[..., 0]
    return _nibbles(blocks[..., 6:]) | _fifth_bits(blocks[..., 2:6]), d, d * np.float16(-16)


def _q5_1(blocks: Bytes) -> Codes:
    d, m = np.moveaxis(_halves(blocks, 0, 2), -1, 0)
    return _nibbles(blocks[..., 8:]) | _fifth_bits(blocks[..., 4:8]), d, m


def _q8_0(blocks: Bytes) -> Codes:
    d = _halves(blocks, 0)[..., 0]
    return blocks[..., 2:] ^ np.uint8(0x80), d, d * np.float16(-128)


def _q4_k(blocks: Bytes) -> Codes:
    s, m = _k_scales(blocks)
    codes = blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32)
    return _by_groups(np.stack((codes & 15, codes >> 4), 3)), s, m


def _q5_k(blocks: Bytes) -> Codes:
    s, m = _k_scales(blocks)
    codes = blocks[..., 48:].reshape(*blocks.shape[:2], 4, 32)
    low = _by_groups(np.stack((codes & 15, codes >> 4), 3))
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    high: Bytes = (blocks[..., None, 16:48] >> shifts & np.uint8(1)) << np.uint8(
        4
    )  # bit g of byte i: code i of group g
    return low | _by_groups(high), s, m


def _by_groups(codes: Bytes) -> Bytes:
    return codes.reshape(len(codes), -1, _GROUP)


def _k_scales(blocks: Bytes) -> tuple[Floats, Floats]:
    """s and m of the 8 groups of each block, from its two float16 and twelve bytes of 6-bit numbers."""
    d, minimum = np.moveaxis(_halves(blocks, 0, 2).astype(np.float32), -1, 0)[..., None]
    first, second, third = (blocks[..., start : start + 4] for start in (4, 8, 12))
    scales = np.concatenate((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    minima = np.concatenate((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    s, m = (d * scales).astype(np.float16), (-minimum * minima).astype(np.float16)
    return s.reshape(len(s), -1), m.reshape(len(m), -1)


def _q6_k(blocks: Bytes) -> Codes:
    """Anew in 8 bits, symmetric: its scales are of 16 values, ours of 32."""
    low = blocks[..., :128].reshape(*blocks.shape[:2], 2, 1, 64)
    low = (low >> np.array([0, 4], np.uint8)[:, None] & np.uint8(15)).reshape(*blocks.shape[:2], 8, 32)
    high = blocks[..., 128:192].reshape(*blocks.shape[:2], 2, 1, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & np.uint8(3)).reshape(*blocks.shape[:2], 8, 32)
    codes = (low | high << 4).astype(np.int8) - np.int8(32)
    scales = blocks[..., 192:208].view(np.int8).astype(np.float32) * _halves(blocks, 208).astype(np.float32)
    values = codes.reshape(*blocks.shape[:2], 16, 16) * scales[..., None]
    values = values.reshape(len(blocks), -1, _GROUP)
    s = (np.abs(values).max(-1) / 127).astype(np.float16)
    step = s.astype(np.float32)[..., None]
    quotients = np.divide(values, step, out=np.zeros_like(values), where=step != 0)
    return (np.clip(np.rint(quotients), -127, 127) + 128).astype(np.uint8), s, s * np.float16(-128)


_READERS: dict[str, Callable[[Bytes], Codes]] = {
    "Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "Q4_K": _q4_k, "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}  # fmt: skip
