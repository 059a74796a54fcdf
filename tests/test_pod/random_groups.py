"""Grouped weights of any layout, of random codes and factors, and each weight of them read byte by byte."""

import torch
from ams_pod.engines.builtin.model.group_layouts import GROUP, TILE, Form, Layout
from torch import Tensor

NAMES = {Form.AFFINE: "affine", Form.CENTRED: "centred", Form.BLOCKS: "blocks"}


def name_of(layout: Layout) -> str:
    return f"{NAMES[layout.form]}-{layout.bits}"


def random_packed(layout: Layout, outputs: int, inputs: int, seed: int = 0) -> Tensor:
    """[tiles, blocks, bytes] of weights of about 1; what lies behind the last output is random too."""
    generator = torch.Generator().manual_seed(seed)
    tiles, blocks, size = layout.shape(outputs, inputs)
    packed = torch.randint(256, (tiles, blocks, size), generator=generator, dtype=torch.uint8)
    body = packed[..., layout.head :].view(tiles, blocks, layout.groups, layout.group_size)
    largest = 2**layout.bits
    if layout.form is Form.BLOCKS:
        heads = torch.randn(tiles, blocks, layout.head // 2, generator=generator) * 2 / largest / 64
        packed[..., : layout.head] = heads.half().view(torch.uint8)
    else:
        factors = torch.randn(tiles, blocks, 1, layout.factors // 2, generator=generator)
        factors[..., :TILE] *= 2 / largest
        body[..., : layout.factors] = factors.half().view(torch.uint8)
    return packed


def by_the_contract(packed: Tensor, layout: Layout, output: int, k: int) -> tuple[float, int, float]:
    """s, q and m of one weight."""
    tile, o, block, within = output // TILE, output % TILE, k // layout.inputs, k % layout.inputs
    data = packed[tile, block].numpy().tobytes()
    group, at = within // GROUP, within % GROUP
    start = layout.head + group * layout.group_size

    def half(where: int) -> float:
        return torch.frombuffer(bytearray(data[where : where + 2]), dtype=torch.float16).float().item()

    codes = data[start + layout.factors :]
    if layout.bits == 8:
        q = codes[64 * (at // 4) + 4 * o + at % 4]
    else:
        byte = codes[64 * (at % 16 // 4) + 4 * o + at % 4]
        q = byte & 15 if at < 16 else byte >> 4
        if layout.bits == 5:
            q |= (codes[256 + 4 * o + at % 4] >> at // 4 & 1) << 4
        elif layout.bits == 6:
            q |= (codes[256 + 64 * (at // 16) + 4 * o + at % 4] >> 2 * (at % 16 // 4) & 3) << 4
    if layout.form is not Form.BLOCKS:
        s = half(start + 2 * o)
        return s, q, half(start + 2 * TILE + 2 * o) if layout.form is Form.AFFINE else -s * 2 ** (layout.bits - 1)
    if layout.bits == 6:
        whole = data[start + TILE * (at // 16) + o]
        s = half(2 * o) * (whole - 256 if whole > 127 else whole)
        return s, q, -32 * s
    return half(2 * o) * data[start + o], q, -half(2 * TILE + 2 * o) * data[start + TILE + o]
