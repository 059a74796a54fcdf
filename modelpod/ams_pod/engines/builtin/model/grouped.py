"""Weights of 4 to 8 bits in groups of 32 inputs, in the layouts of the compiled kernels (`group_layouts`).

What lies in a file is computed with as it is: one uint8 tensor [tiles, blocks, bytes], of which the size of the blocks
tells the layout.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.model.group_layouts import (
    AFFINE_4,
    AFFINE_8,
    CENTRED_4,
    CENTRED_8,
    GROUP,
    TILE,
    Form,
    Layout,
    layout_of,
)

Bits = Literal[4, 8]  # that weights are quantized to here

_PIECE = 1 << 20  # values worked on at once, so that what is made on the way stays small
_LARGEST = 65504.0  # of float16
# Where the search for 4 bits begins: the steps between the least and the largest value, of which the outermost values
# are clipped or not, as in ggml's make_qkx2_quants.
_STEPS = (15.0, 14.1, 13.2, 16.2)
_REFINEMENTS = 2


def check_packed(packed: Tensor, outputs: int) -> Layout:
    """The layout of the weights of so many outputs. ValueError if `packed` doesn't hold such."""
    fits = packed.dtype == torch.uint8 and packed.dim() == 3 and 0 not in packed.shape
    layout = layout_of(packed.shape[2]) if fits else None
    if layout is None or packed.shape[0] != -(-outputs // TILE):
        raise ValueError(f"{packed.dtype} {tuple(packed.shape)} isn't grouped weights of {outputs} outputs")
    return layout


def has_grouped(model: nn.Module) -> bool:
    """Whether any layer's weights are grouped."""
    return any(isinstance(module, GroupedLinear) for module in model.modules())


def pack_codes(q: Tensor, s: Tensor, m: Tensor | None, bits: Bits) -> Tensor:
    """[tiles, groups, bytes] of codes [outputs, inputs] uint8 below 2^bits, s and m [outputs, groups].

    Without m the weights are s·(q - half of the range). ValueError if `inputs` isn't a multiple of 32.
    """
    layouts = (CENTRED_4, CENTRED_8) if m is None else (AFFINE_4, AFFINE_8)
    layout = layouts[bits == 8]
    outputs, inputs = q.shape
    tiles, groups, size = layout.shape(outputs, inputs)
    factors = [s] if m is None else [s, m]
    if missing := tiles * TILE - outputs:
        q, *factors = (F.pad(values, (0, 0, 0, missing)) for values in (q, *factors))
    packed = torch.empty(tiles, groups, size, dtype=torch.uint8, device=q.device)
    places = packed[..., : layout.factors].view(torch.float16).view(tiles, groups, len(factors), TILE)
    for number, values in enumerate(factors):
        places[:, :, number] = values.view(tiles, TILE, groups).transpose(1, 2)
    # Four bytes of one output in each number.
    codes = packed[..., layout.factors :].view(torch.int32).view(tiles, groups, bits, TILE)
    quads = q.contiguous().view(torch.int32).view(tiles, TILE, groups, 8).permute(0, 2, 3, 1)
    if bits == 4:
        codes.copy_(quads[:, :, :4] | (quads[:, :, 4:] << 4))
    else:
        codes.copy_(quads)
    return packed


def unpack(packed: Tensor, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [outputs, inputs] uint8, s and m [outputs, groups, or halves of groups] float32: weights are s·q + m."""
    layout = check_packed(packed, outputs)

    heads, factors, codes = (field.movedim(-1, 1).flatten(0, 1) for field in _fields(packed, layout))
    q, s, m = _parts(heads, factors, codes, layout)
    return q[:outputs], s[:outputs], m[:outputs]


def dequantize(packed: Tensor, outputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights [outputs, inputs], computed in float32 and rounded once."""
    layout = check_packed(packed, outputs)
    tiles, inputs = len(packed), packed.shape[1] * layout.inputs
    weights = torch.empty(tiles * TILE, inputs, dtype=dtype, device=packed.device)
    step = max(1, _PIECE // (TILE * inputs))
    for first in range(0, tiles, step):
        piece = packed[first : first + step]
        weights[first * TILE : (first + step) * TILE] = _weights(*unpack(piece, len(piece) * TILE))
    return weights[:outputs]


def dequantize_rows(packed: Tensor, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights [len(rows), inputs] of some outputs alone, `rows` [n] int64."""
    layout = check_packed(packed, len(packed) * TILE)
    tile, place = rows // TILE, rows % TILE
    heads, factors, codes = (field[tile, ..., place] for field in _fields(packed, layout))
    return _weights(*_parts(heads, factors, codes, layout)).to(dtype)


def _fields(packed: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Views, all with the 16 outputs last.

    Heads of blocks [tiles, blocks, n, 16], factors of groups [tiles, blocks, groups, n, 16], and codes, four in each
    int32 [tiles, blocks, groups, vectors, 16].
    """
    tiles, blocks, _ = packed.shape
    heads = packed[..., : layout.head].view(torch.float16).view(tiles, blocks, -1, TILE)
    body = packed[..., layout.head :].view(tiles, blocks, layout.groups, layout.group_size)
    kind = torch.float16 if layout.form is not Form.BLOCKS else torch.int8 if layout.has_halves else torch.uint8
    factors = body[..., : layout.factors].view(kind).view(tiles, blocks, layout.groups, -1, TILE)
    codes = body[..., layout.factors :].view(torch.int32).view(tiles, blocks, layout.groups, layout.bits, TILE)
    return heads, factors, codes


def _parts(heads: Tensor, factors: Tensor, codes: Tensor, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [n, inputs], s and m [n, groups, or halves of groups] of n outputs' fields."""
    quads = _quads(codes, layout.bits).contiguous().view(torch.uint8)
    scales = factors.float() if layout.is_centred else factors[..., :1].float()
    if layout.form is Form.BLOCKS:
        scales = heads[..., :1, None].float() * scales
    if layout.is_centred:
        offsets = scales * -(1 << layout.bits - 1)
    elif layout.form is Form.BLOCKS:
        offsets = -(heads[..., 1:, None].float() * factors[..., 1:].float())
    else:
        offsets = factors[..., 1:].float()
    return quads.flatten(1), scales.flatten(1), offsets.flatten(1)


def _quads(codes: Tensor, bits: int) -> Tensor:
    """Four codes in each int32 [..., 8], in the order of the inputs, of vectors [..., bits]."""
    if bits == 8:
        return codes
    quads = torch.cat((codes[..., :4] & 0x0F0F0F0F, codes[..., :4] >> 4 & 0x0F0F0F0F), -1)
    if bits == 5:
        places = torch.arange(8, dtype=torch.int32, device=codes.device)
        quads |= (codes[..., 4:] >> places & 0x01010101) << 4
    elif bits == 6:
        places = torch.arange(0, 8, 2, dtype=torch.int32, device=codes.device)
        quads |= ((codes[..., 4:, None] >> places & 0x03030303) << 4).flatten(-2)
    return quads


def _weights(q: Tensor, s: Tensor, m: Tensor) -> Tensor:
    """float32 [n, inputs]."""
    values = q.float().view(*s.shape, -1)
    return values.mul_(s[..., None]).add_(m[..., None]).flatten(1)


def quantize(weight: Tensor, bits: Bits) -> Tensor:
    """[tiles, groups, bytes] nearest to weights [outputs, inputs], by pieces of rows. ValueError if no groups fit them.

    8 bits: symmetric around 0, which is code 128. 4 bits: the s and m with the least squared error that a short search
    finds, from several beginnings (https://github.com/ggml-org/llama.cpp, make_qkx2_quants).
    """
    outputs, inputs = weight.shape
    tiles, groups, size = (CENTRED_8 if bits == 8 else AFFINE_4).shape(outputs, inputs)
    packed = torch.empty(tiles, groups, size, dtype=torch.uint8, device=weight.device)
    step = max(1, _PIECE // (TILE * inputs))
    for first in range(0, tiles, step):
        rows = weight[first * TILE : (first + step) * TILE].float()
        values = rows.view(len(rows), groups, GROUP)
        q, s, m = _symmetric(values) if bits == 8 else _affine(values)
        packed[first : first + step] = pack_codes(q.view(len(rows), inputs), s, m, bits)
    return packed


def _symmetric(values: Tensor) -> tuple[Tensor, Tensor, None]:
    largest = values.abs().amax(-1)
    s = (largest / 127).clamp_(max=_LARGEST / 128).half()
    short = s.float() * 127.5 < largest  # of tiny weights, whose s has few digits
    s = torch.where(short & (s < _LARGEST / 129), s.view(torch.int16) + 1, s.view(torch.int16)).view(torch.float16)
    q = (values * _inverse(s.float())[..., None]).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    return q, s, None


def _affine(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = values.amin(-1).clamp_(max=0), values.amax(-1).clamp_(min=0)
    best = torch.full_like(low, torch.inf)
    best_s, best_m = torch.zeros_like(low), low
    total = values.sum(-1)
    for steps in _STEPS:
        s, m = (high - low) / steps, low
        for _ in range(_REFINEMENTS):
            q = _nearest(values, s, m)
            s, m = _least_squares(values, q, total, s, m)
        s, m = _halves(s, m)
        error = _nearest(values, s, m).mul_(s[..., None]).add_(m[..., None]).sub_(values).square_().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        best_s, best_m = torch.where(better, s, best_s), torch.where(better, m, best_m)
    return _nearest(values, best_s, best_m).to(torch.uint8), best_s.half(), best_m.half()


def _nearest(values: Tensor, s: Tensor, m: Tensor) -> Tensor:
    inverse = _inverse(s)
    return torch.addcmul((-m * inverse)[..., None], values, inverse[..., None]).round_().clamp_(0, 15)


def _least_squares(values: Tensor, q: Tensor, total: Tensor, s: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """The s and m that are best for the codes; the former ones where all codes are the same."""
    sum_q, sum_qq, sum_qw = q.sum(-1), torch.linalg.vecdot(q, q), torch.linalg.vecdot(q, values)
    determinant = GROUP * sum_qq - sum_q * sum_q
    found = determinant > 0
    safe = torch.where(found, determinant, 1)
    best_s = (GROUP * sum_qw - sum_q * total) / safe
    best_m = (total - best_s * sum_q) / GROUP
    return torch.where(found, best_s, s), torch.where(found, best_m, m)


def _halves(s: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """As float16 holds them, still as float32."""
    return (values.clamp(-_LARGEST, _LARGEST).half().float() for values in (s, m))  # type: ignore[return-value]


def _inverse(s: Tensor) -> Tensor:
    return torch.where(s == 0, 0, 1 / s)


class GroupedLinear(nn.Linear):
    """A linear layer with grouped weights; `packed` [tiles, blocks, bytes] may be the memory of a file.

    Its forward is for the model's own code: by the compiled kernels where they are, else it dequantizes.
    """

    packed: Tensor

    def __init__(
        self,
        packed: Tensor,
        outputs: int,
        bias: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is what code gets that asks for `weight`. ValueError if `packed` has another shape."""
        nn.Module.__init__(self)
        self.layout, self.dtype = check_packed(packed, outputs), dtype
        self.in_features, self.out_features = packed.shape[1] * self.layout.inputs, outputs
        self.register_buffer("packed", packed)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @classmethod
    def of(cls, linear: nn.Linear, bits: Bits) -> "GroupedLinear":
        """The layer with its weights quantized. ValueError if its inputs don't go by 32."""
        weight, bias = linear.weight.data, linear.bias
        return cls(quantize(weight, bits), len(weight), None if bias is None else bias.data, weight.dtype)

    @property
    def weight(self) -> Tensor:
        """Dequantized [outputs, inputs], anew with each call."""
        return dequantize(self.packed, self.out_features, self.dtype)

    def reset_parameters(self) -> None:
        """Nothing: they come from a file."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and (library := compiled.load()) is not None:
            return self._computed(library, x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, dequantize(self.packed, self.out_features, x.dtype), bias)

    def _computed(self, library: Any, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float().contiguous()
        result = torch.empty(len(rows), self.out_features)
        bias = None if self.bias is None else self.bias.float().contiguous()
        c = compiled.LinearC(
            self.out_features, self.in_features, self.packed.data_ptr(), None if bias is None else bias.data_ptr(),
            self.layout.number, 0,
        )  # fmt: skip
        if len(rows) and library.ams_linear(c, rows.data_ptr(), len(rows), result.data_ptr()):
            raise MemoryError("no memory for the rows of a layer")
        return result.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.layout.bits}, bias={self.bias is not None}"


class TorchInt4Linear(nn.Linear):
    """A linear layer with 4-bit groups in the layout of torch's own kernel, which computes in bfloat16 alone.

    For machines without the compiled kernels: faster than bfloat16 weights for up to a dozen rows, slower for more.
    Scales are rounded to bfloat16. `codes` [outputs filled up to 16, inputs / 2], `factors` [groups, outputs, 2] of
    s and m + 8·s.
    """

    codes: Tensor
    factors: Tensor

    def __init__(self, grouped: GroupedLinear) -> None:
        """Takes the weights of a 4-bit layer."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = grouped.in_features, grouped.out_features
        q, s, m = unpack(grouped.packed, grouped.packed.shape[0] * TILE)
        self.register_buffer("codes", torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1))
        offsets = torch.add(m, s, alpha=8)
        self.register_buffer("factors", torch.stack((s, offsets), -1).transpose(0, 1).bfloat16().contiguous())
        self.bias = grouped.bias

    @property
    def weight(self) -> Tensor:
        """Dequantized [outputs, inputs], anew with each call."""
        return self._times(torch.eye(self.in_features, dtype=torch.bfloat16)).T

    def reset_parameters(self) -> None:
        """Nothing: they come from a file."""

    def _times(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.codes, GROUP, self.factors)
        return product[:, : self.out_features]

    def forward(self, x: Tensor) -> Tensor:
        result = self._times(x.reshape(-1, self.in_features).bfloat16()).to(x.dtype)
        result = result.view(*x.shape[:-1], self.out_features)
        return result if self.bias is None else result + self.bias.to(x.dtype)


class GroupedEmbedding(nn.Embedding):
    """Embeddings with grouped weights, a token an output; rows are dequantized as they are looked up."""

    packed: Tensor

    def __init__(self, packed: Tensor, tokens: int, dtype: torch.dtype = torch.float32) -> None:
        """ValueError if `packed` has another shape."""
        nn.Module.__init__(self)
        self.layout, self.dtype = check_packed(packed, tokens), dtype
        self.num_embeddings, self.embedding_dim = tokens, packed.shape[1] * self.layout.inputs
        self.padding_idx = self.max_norm = None
        self.register_buffer("packed", packed)

    @property
    def weight(self) -> Tensor:
        """Dequantized [tokens, size], anew with each call."""
        return dequantize(self.packed, self.num_embeddings, self.dtype)

    def reset_parameters(self) -> None:
        """Nothing: they come from a file."""

    def forward(self, ids: Tensor) -> Tensor:
        """[..., size] for ids [...]."""
        rows = dequantize_rows(self.packed, ids.reshape(-1), self.dtype)
        return rows.view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.layout.bits}"
