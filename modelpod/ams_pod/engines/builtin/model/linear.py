"""Linear layers of the decoder: prepacked by oneDNN where that pays (bfloat16 on CPU), quantized, or plain."""

from collections.abc import Sequence
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PACK_BATCH_HINT = 32  # rows that the packed layout is tuned for; other counts work as well


class Linear(Protocol):
    """y = x·Wᵀ + b for x [tokens, in], with the epilogues that a decoder needs fused where possible."""

    def __call__(self, x: Tensor) -> Tensor: ...
    def silu(self, x: Tensor) -> Tensor: ...
    def mul(self, x: Tensor, other: Tensor) -> Tensor: ...
    def add(self, x: Tensor, other: Tensor) -> Tensor: ...


class PlainLinear:
    """torch's own matmul: float32, and every device but the CPU."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(F.linear(x, self.weight, self.bias), inplace=True)

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).mul_(other)

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias).add_(other)


class PackedLinear:
    """Weights in oneDNN's blocked layout: 1.6 to 2 times faster for few rows, and epilogues cost nothing.

    The operators are torch's private ones, which its own compiler emits; `packing_works` checks them first.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_BATCH_HINT)
        self.bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def silu(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "swish", [], "")

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, "mul")

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.packed, self.bias, "add")


class ModuleLinear:
    """Modules that keep their own weights: grouped ones and those of bitsandbytes, each with a matmul of its own."""

    def __init__(self, modules: Sequence[nn.Linear]) -> None:
        self.modules = list(modules)

    def __call__(self, x: Tensor) -> Tensor:
        results = [module(x) for module in self.modules]
        return results[0] if len(results) == 1 else torch.cat(results, -1)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(self(x))

    def mul(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) * other

    def add(self, x: Tensor, other: Tensor) -> Tensor:
        return self(x) + other


def is_quantized(module: nn.Linear) -> bool:
    """Whether it is a grouped linear layer or one of bitsandbytes': nn.Linear with other weights."""
    return type(module).__name__ in ("GroupedLinear", "TorchInt4Linear", "Linear4bit", "Linear8bitLt")


def make_linear(modules: Sequence[nn.Linear], packed: bool) -> Linear:
    """One linear of several with the same input (q, k and v become one matmul)."""
    if any(map(is_quantized, modules)):
        return ModuleLinear(modules)
    weights = [module.weight.data for module in modules]
    biases = [module.bias.data for module in modules if module.bias is not None]
    weight = weights[0] if len(weights) == 1 else torch.cat(weights)
    bias = None if not biases else biases[0] if len(biases) == 1 else torch.cat(biases)
    return PackedLinear(weight, bias) if packed else PlainLinear(weight, bias)


@cache
def packing_works(dtype: torch.dtype, device: str) -> bool:
    """Whether this torch has the packed operators for `dtype` and they compute what plain ones do."""
    if device != "cpu" or dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(64, 32, generator=generator).to(dtype)
        x, other = torch.randn(3, 32, generator=generator).to(dtype), torch.randn(3, 64, generator=generator).to(dtype)
        packed, plain = PackedLinear(weight, None), PlainLinear(weight, None)
        pairs = [
            (packed(x), plain(x)),
            (packed.silu(x), plain.silu(x)),
            (packed.mul(x, other), plain.mul(x, other)),
            (packed.add(x, other), plain.add(x, other)),
        ]
        return all(torch.allclose(a.float(), b.float(), atol=0.5, rtol=0.05) for a, b in pairs)
    except (AttributeError, RuntimeError):
        return False
