"""Matmuls of a tower on weights in oneDNN's layout: laid out once, where torch's operators do it at each call.

An activation that follows a linear layer is computed on its way out, and a convolution whose patches don't overlap is a
matmul. The weights that a module had are given back.
"""

import math
from collections import Counter
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATED = {
    "Qwen2_5_VLMLP": (("gate_proj", "act_fn"),),
    "Qwen2_5OmniMLP": (("gate_proj", "act_fn"),),
    "Qwen3VLVisionMLP": (("linear_fc1", "act_fn"),),
    "Qwen3VLVisionPatchMerger": (("linear_fc1", "act_fn"),),
    "Qwen2AudioEncoderLayer": (("fc1", "activation_fn"),),
    "Qwen2_5OmniAudioEncoderLayer": (("fc1", "activation_fn"),),
    "BlipMLP": (("fc1", "activation_fn"),),
    "BlipTextIntermediate": (("dense", "intermediate_act_fn"),),
    "Sequential": (("0", "1"),),
}
"""Of modules by their class: linear layers, each with the activation that alone gets what it makes."""

_ROWS_HINT = 32  # that the layout is tuned for; other counts are as fast
_PATCH_EMBEDDINGS = ("Qwen2_5_VisionPatchEmbed", "Qwen3VLVisionPatchEmbed")

# What oneDNN calls an activation: name and algorithm.
_Epilogue = tuple[str, str]
_NONE: _Epilogue = ("none", "")


class PackedForward:
    """The forward of a linear layer, or of a convolution of one patch, [.., inputs]."""

    def __init__(self, weight: Tensor, bias: Tensor | None, epilogue: _Epilogue) -> None:
        """`weight` [outputs, inputs]."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS_HINT)
        self._bias, (self._name, self._algorithm) = bias, epilogue

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, self._name, [], self._algorithm)


@cache
def packing_works() -> bool:
    """Whether this torch and processor have the operators, and they compute what plain ones do."""
    if not torch.backends.mkldnn.is_available():
        return False
    try:
        if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            return False
        generator = torch.Generator().manual_seed(0)
        weight, x = (torch.randn(rows, 48, generator=generator).bfloat16() for rows in (64, 5))
        plain = F.linear(x, weight)
        pairs = [
            (PackedForward(weight, None, _NONE)(x), plain),
            (PackedForward(weight, None, ("swish", ""))(x), F.silu(plain)),
            (PackedForward(weight, None, ("gelu", "none"))(x), F.gelu(plain)),
            (PackedForward(weight, None, ("gelu", "tanh"))(x), F.gelu(plain, approximate="tanh")),
        ]
        return all(torch.allclose(found.float(), expected.float(), atol=0.1, rtol=0.05) for found, expected in pairs)
    except (AttributeError, RuntimeError):
        return False


class PackedPatch(PackedForward):
    """The forward of a convolution over inputs that have its kernel's size: [patches, outputs, 1, 1, 1]."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x.flatten(1))[..., None, None, None]


def pack(tower: nn.Module) -> None:
    """All of a tower in bfloat16 on a CPU. Weights that several modules share stay as they are, and so do quantized
    ones."""
    owners = Counter(
        id(module.weight) for module in tower.modules() if isinstance(getattr(module, "weight", None), Tensor)
    )
    epilogues: dict[int, _Epilogue] = {}
    for parent in tower.modules():
        epilogues |= _take_activations(parent)
    for module in list(tower.modules()):
        if type(module) is nn.Linear and module.weight.dtype == torch.bfloat16 and owners[id(module.weight)] == 1:
            _replace(module, PackedForward(module.weight.data, _bias(module), epilogues.get(id(module), _NONE)))
        if type(module).__name__ in _PATCH_EMBEDDINGS and type(conv := module.proj) is nn.Conv3d:
            _replace(conv, PackedPatch(conv.weight.data.flatten(1), _bias(conv), _NONE))


def _take_activations(parent: nn.Module) -> dict[int, _Epilogue]:
    """Of linear layers, by their identity, what replaces the activation behind them, which does nothing any more."""
    found = {}
    for names in ACTIVATED.get(type(parent).__name__, ()):
        linear, activation = _member(parent, names[0]), _member(parent, names[1])
        if type(linear) is nn.Linear and (epilogue := _epilogue(activation)) is not None:
            found[id(linear)] = epilogue
            activation.forward = _as_it_is
    return found


def _member(parent: nn.Module, name: str) -> Any:
    return getattr(parent, name, None)


def _epilogue(activation: Any) -> _Epilogue | None:
    """None for one that oneDNN doesn't have, or that is none."""
    match type(activation).__name__:
        case "SiLU" | "SiLUActivation":
            return "swish", ""
        case "GELU":
            return "gelu", activation.approximate
        case "GELUActivation":
            return "gelu", "none"
        case "GELUTanh":
            return "gelu", "tanh"
    return None


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _bias(module: Any) -> Tensor | None:
    return None if module.bias is None else module.bias.data


def _replace(module: Any, forward: PackedForward) -> None:
    """The forward of a module, whose weights are given back: what is left has their shape and no number in it."""
    module.forward = forward
    module.weight.data = torch.full((), math.nan, dtype=module.weight.dtype).expand(module.weight.shape)
