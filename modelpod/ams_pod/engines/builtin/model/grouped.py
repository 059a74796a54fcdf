"""Weights of 4 or 8 bits in groups of 32 inputs, each with a scale and an offset: w[o, k] = s[o, g]·q[o, k] + m[o, g].

The layout is that of the compiled kernels, so that what lies in a file is computed with as it is. One uint8 tensor
[tiles, groups, bytes]: a tile is 16 outputs (the last one filled up with zeros), a group 32 inputs. Of each:

- bytes 0-31: 16 float16 s of the tile's outputs; bytes 32-63: their 16 float16 m;
- 4 bits, bytes 64-319: byte 64 + (j·16 + o)·4 + i, j < 4, o < 16, i < 4, holds q[o, 4j+i] in its low half and
  q[o, 16+4j+i] in its high one;
- 8 bits, bytes 64-575: byte 64 + (j·16 + o)·4 + i, j < 8, holds q[o, 4j+i].
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ams_pod.engines.builtin import compiled

Bits = Literal[4, 8]

GROUP = 32  # inputs that share s and m
TILE = 16  # outputs whose codes lie together
_FACTORS = 4 * TILE  # bytes of s and m of a tile's group
BYTES: dict[int, int] = {bits: _FACTORS + TILE * GROUP * bits // 8 for bits in (4, 8)}  # of one group of a tile

_PIECE = 1 << 20  # values worked on at once, so that what is made on the way stays small
_LARGEST = 65504.0  # of float16
# Where the search for 4 bits begins: the steps between the least and the largest value, of which the outermost values
# are clipped or not, as in ggml's make_qkx2_quants.
_STEPS = (15.0, 14.1, 13.2, 16.2)
_REFINEMENTS = 2


def packed_shape(outputs: int, inputs: int, bits: Bits) -> tuple[int, int, int]:
    """Of the tensor that holds weights [outputs, inputs]. ValueError if `inputs` isn't a multiple of 32."""
    if inputs % GROUP or inputs <= 0 or outputs <= 0:
        raise ValueError(f"weights of {outputs} x {inputs} can't be grouped: inputs go by {GROUP}")
    return -(-outputs // TILE), inputs // GROUP, BYTES[bits]


def check_packed(packed: Tensor, bits: int, outputs: int) -> None:
    """ValueError if `packed` doesn't hold the weights of so many outputs."""
    fits = packed.dtype == torch.uint8 and packed.dim() == 3 and 0 not in packed.shape
    if not fits or packed.shape[0] != -(-outputs // TILE) or packed.shape[2] != BYTES.get(bits):
        raise ValueError(f"{packed.dtype} {tuple(packed.shape)} isn't {bits}-bit weights of {outputs} outputs")


def has_grouped(model: nn.Module) -> bool:
    """Whether any layer's weights are grouped."""
    return any(isinstance(module, GroupedLinear) for module in model.modules())


def pack_codes(q: Tensor, s: Tensor, m: Tensor, bits: Bits) -> Tensor:
    """[tiles, groups, bytes] of codes [outputs, inputs] uint8 below 2^bits, s and m [outputs, groups]."""
    outputs, inputs = q.shape
    tiles, groups, size = packed_shape(outputs, inputs, bits)
    missing = tiles * TILE - outputs
    if missing:
        q, s, m = (F.pad(values, (0, 0, 0, missing)) for values in (q, s, m))
    packed = torch.empty(tiles, groups, size, dtype=torch.uint8, device=q.device)
    factors = packed[..., :_FACTORS].view(torch.float16).view(tiles, groups, 2, TILE)
    factors[:, :, 0] = s.view(tiles, TILE, groups).transpose(1, 2)
    factors[:, :, 1] = m.view(tiles, TILE, groups).transpose(1, 2)
    codes = packed[..., _FACTORS:].view(torch.int32).view(tiles, groups, bits, TILE)  # 4 bytes of one output each
    quads = q.contiguous().view(torch.int32).view(tiles, TILE, groups, 8).permute(0, 2, 3, 1)
    if bits == 4:
        codes.copy_(quads[:, :, :4] | (quads[:, :, 4:] << 4))
    else:
        codes.copy_(quads)
    return packed


def unpack(packed: Tensor, bits: Bits, outputs: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [outputs, inputs] uint8, s and m [outputs, groups] float16."""
    tiles, groups, _ = packed.shape
    factors = packed[..., :_FACTORS].view(torch.float16).view(tiles, groups, 2, TILE).permute(2, 0, 3, 1)
    s, m = factors.reshape(2, tiles * TILE, groups)[:, :outputs]
    return _codes(packed, bits).view(torch.uint8).view(tiles * TILE, groups * GROUP)[:outputs], s, m


def _codes(packed: Tensor, bits: Bits) -> Tensor:
    """Four codes in each int32 [tiles, 16, groups, 8], in the order of the inputs."""
    tiles, groups, _ = packed.shape
    quads = packed[..., _FACTORS:].view(torch.int32).view(tiles, groups, bits, TILE).permute(0, 3, 1, 2)
    codes = torch.empty(tiles, TILE, groups, 8, dtype=torch.int32, device=packed.device)
    if bits == 4:
        torch.bitwise_and(quads, 0x0F0F0F0F, out=codes[..., :4])
        torch.bitwise_and(quads >> 4, 0x0F0F0F0F, out=codes[..., 4:])
    else:
        codes.copy_(quads)
    return codes


def dequantize(packed: Tensor, bits: Bits, outputs: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Weights [outputs, inputs], computed in float32 and rounded once."""
    tiles, groups, _ = packed.shape
    weights = torch.empty(tiles * TILE, groups, GROUP, dtype=dtype, device=packed.device)
    step = max(1, _PIECE // (TILE * groups * GROUP))
    for first in range(0, tiles, step):
        piece = packed[first : first + step]
        factors = piece[..., :_FACTORS].view(torch.float16).view(len(piece), groups, 2, TILE).permute(2, 0, 3, 1)
        s, m = factors.float().reshape(2, len(piece) * TILE, groups, 1)
        values = _codes(piece, bits).view(torch.uint8).view(len(piece) * TILE, groups, GROUP).float()
        weights[first * TILE : (first + step) * TILE] = values.mul_(s).add_(m)
    return weights.view(tiles * TILE, groups * GROUP)[:outputs]


def dequantize_rows(packed: Tensor, bits: Bits, rows: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weights [len(rows), inputs] of some outputs alone, `rows` [n] int64."""
    tiles, groups, _ = packed.shape
    tile, place = rows // TILE, rows % TILE
    factors = packed[..., :_FACTORS].view(torch.float16).view(tiles, groups, 2, TILE)
    s, m = factors[tile, :, 0, place].float()[..., None], factors[tile, :, 1, place].float()[..., None]
    quads = packed[..., _FACTORS:].view(torch.int32).view(tiles, groups, bits, TILE)[tile, :, :, place]
    if bits == 4:
        quads = torch.cat((quads & 0x0F0F0F0F, (quads >> 4) & 0x0F0F0F0F), -1)
    values = quads.contiguous().view(torch.uint8).view(len(rows), groups, GROUP).float()
    return values.mul_(s).add_(m).to(dtype).view(len(rows), groups * GROUP)


def quantize(weight: Tensor, bits: Bits) -> Tensor:
    """[tiles, groups, bytes] nearest to weights [outputs, inputs], by pieces of rows.

    8 bits: symmetric around 0, which is code 128. 4 bits: the s and m with the least squared error that a short search
    finds, from several beginnings (https://github.com/ggml-org/llama.cpp, make_qkx2_quants).
    """
    outputs, inputs = weight.shape
    tiles, groups, size = packed_shape(outputs, inputs, bits)
    packed = torch.empty(tiles, groups, size, dtype=torch.uint8, device=weight.device)
    step = max(1, _PIECE // (TILE * inputs))
    for first in range(0, tiles, step):
        rows = weight[first * TILE : (first + step) * TILE].float()
        values = rows.view(len(rows), groups, GROUP)
        q, s, m = _symmetric(values) if bits == 8 else _affine(values)
        packed[first : first + step] = pack_codes(q.view(len(rows), inputs), s, m, bits)
    return packed


def _symmetric(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    largest = values.abs().amax(-1)
    s = (largest / 127).clamp_(max=_LARGEST / 128).half()
    short = s.float() * 127.5 < largest  # of tiny weights, whose s has few digits
    s = torch.where(short & (s < _LARGEST / 129), s.view(torch.int16) + 1, s.view(torch.int16)).view(torch.float16)
    q = (values * _inverse(s.float())[..., None]).round_().clamp_(-127, 127).add_(128).to(torch.uint8)
    return q, s, s * -128


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
    """A linear layer with grouped weights; `packed` [tiles, groups, bytes] may be the memory of a file.

    Its forward is for the model's own code: by the compiled kernels where they are, else it dequantizes.
    """

    packed: Tensor

    def __init__(
        self,
        packed: Tensor,
        bits: Bits,
        outputs: int,
        bias: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """`dtype` is what code gets that asks for `weight`. ValueError if `packed` has another shape."""
        nn.Module.__init__(self)
        check_packed(packed, bits, outputs)
        self.in_features, self.out_features = packed.shape[1] * GROUP, outputs
        self.bits, self.dtype = bits, dtype
        self.register_buffer("packed", packed)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @classmethod
    def of(cls, linear: nn.Linear, bits: Bits) -> "GroupedLinear":
        """The layer with its weights quantized. ValueError if its inputs don't go by 32."""
        weight, bias = linear.weight.data, linear.bias
        return cls(quantize(weight, bits), bits, len(weight), None if bias is None else bias.data, weight.dtype)

    @property
    def weight(self) -> Tensor:
        """Dequantized [outputs, inputs], anew with each call."""
        return dequantize(self.packed, self.bits, self.out_features, self.dtype)

    def reset_parameters(self) -> None:
        """Nothing: they come from a file."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and (library := compiled.load()) is not None:
            return self._computed(library, x)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, dequantize(self.packed, self.bits, self.out_features, x.dtype), bias)

    def _computed(self, library: Any, x: Tensor) -> Tensor:
        rows = x.reshape(-1, self.in_features).float().contiguous()
        result = torch.empty(len(rows), self.out_features)
        bias = None if self.bias is None else self.bias.float().contiguous()
        c = compiled.LinearC(
            self.out_features, self.in_features, self.packed.data_ptr(), None if bias is None else bias.data_ptr(),
            self.bits, 0,
        )  # fmt: skip
        if len(rows) and library.ams_linear(c, rows.data_ptr(), len(rows), result.data_ptr()):
            raise MemoryError("no memory for the rows of a layer")
        return result.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bits={self.bits}, bias={self.bias is not None}"


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
        q, s, m = unpack(grouped.packed, 4, grouped.packed.shape[0] * TILE)
        self.register_buffer("codes", torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1))
        offsets = torch.add(m.float(), s.float(), alpha=8)
        self.register_buffer("factors", torch.stack((s.float(), offsets), -1).transpose(0, 1).bfloat16().contiguous())
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

    def __init__(self, packed: Tensor, bits: Bits, tokens: int, dtype: torch.dtype = torch.float32) -> None:
        """ValueError if `packed` has another shape."""
        nn.Module.__init__(self)
        check_packed(packed, bits, tokens)
        self.num_embeddings, self.embedding_dim = tokens, packed.shape[1] * GROUP
        self.padding_idx = self.max_norm = None
        self.bits, self.dtype = bits, dtype
        self.register_buffer("packed", packed)

    @property
    def weight(self) -> Tensor:
        """Dequantized [tokens, size], anew with each call."""
        return dequantize(self.packed, self.bits, self.num_embeddings, self.dtype)

    def reset_parameters(self) -> None:
        """Nothing: they come from a file."""

    def forward(self, ids: Tensor) -> Tensor:
        """[..., size] for ids [...]."""
        rows = dequantize_rows(self.packed, self.bits, ids.reshape(-1), self.dtype)
        return rows.view(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, bits={self.bits}"
