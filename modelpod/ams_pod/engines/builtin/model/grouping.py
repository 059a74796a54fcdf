"""Grouped weights as a quantization of transformers': made while a model is read, or read as a folder holds them.

While it loads, a grouped weight is a uint8 parameter in the place of the plain one, so that transformers' own renaming
and tying apply to it. Once all are there, the modules are replaced by those that compute with such weights.

In a folder, such tensors are of type U8 and shape [tiles, blocks, bytes] under the plain weights' names, and in
config.json `quantization_config` is {"quant_method": "grouped", "version": 2, "bits": those of most weights,
"parameters": how many in all, "file_type": the GGUF file's}.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from ams_common.grouped_weights import KNOWN_VERSIONS, METHOD, VERSION
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.quantizers_utils import get_module_from_name, should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from ams_pod.engines.builtin.model.group_layouts import GROUP, LAYOUTS
from ams_pod.engines.builtin.model.grouped import (
    Bits,
    GroupedEmbedding,
    GroupedLinear,
    TorchInt4Linear,
    quantize,
)

_EMBEDDING_BITS: Bits = 8  # of the tables that every token passes: they lose the most and gain the least


@register_quantization_config(METHOD)
class GroupedConfig(QuantizationConfigMixin):
    """`bits` of linear weights; `skipped` are patterns of module names that stay as they are."""

    def __init__(self, version: int = VERSION, bits: int = 4, skipped: Sequence[str] = (), **others: Any) -> None:
        if version not in KNOWN_VERSIONS:
            raise ValueError(
                f"its weights are grouped in version {version!r} of the layout, and {VERSION} is known here"
            )
        if bits not in (known := sorted({layout.bits for layout in LAYOUTS})):
            raise ValueError(f"its weights are grouped in {bits!r} bits, and {known} are known here")
        self.quant_method = METHOD
        self.version, self.bits, self.skipped = version, bits, skipped


@register_quantizer(METHOD)
class GroupedQuantizer(HfQuantizer):
    """What `from_pretrained` asks on its way."""

    quantization_config: GroupedConfig

    def _process_model_before_weight_loading(self, model: Any, dtype: Any = None, **others: Any) -> None:
        self.dtype = dtype or torch.get_default_dtype()
        self._bits: Bits = 4 if self.quantization_config.bits == 4 else 8
        self._tables = set() if self.pre_quantized else _token_tables(model)

    def bits_of(self, model: Any, name: str) -> Bits | None:
        """In how many bits the parameter is made; None for one that stays as it is."""
        module, parameter = get_module_from_name(model, name)
        path = name.rpartition(".")[0]
        if parameter != "weight" or not should_convert_module(path, self.quantization_config.skipped):
            return None
        if module in self._tables:
            return _EMBEDDING_BITS
        if type(module) is nn.Linear and module is not model.get_output_embeddings() and not module.in_features % GROUP:
            return self._bits
        if type(module) is Conv1D and not module.nx % GROUP:
            return self._bits
        return None

    def param_needs_quantization(self, model: Any, param_name: str, **others: Any) -> bool:
        """Also: whether another shape than the plain one's may be read for it. `_process_model_after…` looks at it."""
        if self.pre_quantized:
            module, parameter = get_module_from_name(model, param_name)
            return parameter == "weight" and type(module) in (nn.Linear, nn.Embedding)
        return self.bits_of(model, param_name) is not None

    def get_quantize_ops(self) -> "_Quantize":
        return _Quantize(self)

    def _process_model_after_weight_loading(self, model: Any, **others: Any) -> Any:
        compute_grouped(model, self.dtype)
        return model

    def is_serializable(self) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


class _Quantize(ConversionOps):
    def __init__(self, quantizer: GroupedQuantizer) -> None:
        self.hf_quantizer = quantizer

    def convert(self, input_dict: dict[str, Any], *others: Any, model: Any = None, **more: Any) -> dict[str, Tensor]:
        result = {}
        for name, value in input_dict.items():
            weight: Tensor = value[0] if isinstance(value, list) else value
            bits = self.hf_quantizer.bits_of(model, name)
            if bits is None:
                raise ValueError(f"the weights of {name} are not to be quantized")
            module, _ = get_module_from_name(model, name)
            if weight.shape != module.weight.shape:
                raise ValueError(f"the weights of {name} are {tuple(weight.shape)}, not {tuple(module.weight.shape)}")
            result[name] = quantize(weight.T if isinstance(module, Conv1D) else weight, bits)
        return result


def compute_grouped(model: Any, dtype: torch.dtype) -> None:
    """Put layers that compute with grouped weights in the place of those whose weight is one.

    ValueError for a tensor that isn't what its module needs.
    """
    packed: dict[nn.Parameter, Tensor] = {}  # one tensor for tied ones, so that it counts once
    for parent, name, module in list(_children(model)):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dtype == torch.uint8:
            setattr(parent, name, _computing(module, packed.setdefault(weight, weight.data), dtype))
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            raise ValueError(f"the weights of {name} are {parameter.dtype}")
    for name, module in model.named_modules():
        if type(module) is nn.Linear and module.weight.shape != (module.out_features, module.in_features):
            raise ValueError(f"the weights of {name} are {tuple(module.weight.shape)}")
        if type(module) is nn.Embedding and module.weight.shape != (module.num_embeddings, module.embedding_dim):
            raise ValueError(f"the weights of {name} are {tuple(module.weight.shape)}")


def dequantize_modules(model: Any) -> None:
    """Put plain layers in the place of grouped ones, with weights of their `dtype`: what is tied stays so."""
    plain: dict[int, nn.Parameter] = {}
    for parent, name, module in list(_children(model)):
        if not isinstance(module, GroupedLinear | GroupedEmbedding):
            continue
        key = module.packed.data_ptr()
        if key not in plain:
            plain[key] = nn.Parameter(module.weight, requires_grad=False)
        setattr(parent, name, _plain(module, plain[key]))


def use_torchs_kernel(model: Any, head: nn.Module | None = None) -> None:
    """Put layers that torch's own kernel computes in the place of 4-bit ones, one by one; nothing where it doesn't.

    A `head` of 8 bits, which each step would unpack again, or one that is tied to the embeddings, is unpacked for good,
    and they with it.
    """
    if not _torchs_kernel_works():
        return
    table = head.packed if isinstance(head, GroupedLinear) else None
    tied = any(isinstance(module, GroupedEmbedding) and module.packed is table for module in model.modules())
    if isinstance(head, GroupedLinear) and head.layout.bits == 4 and not tied:
        table = None
    plain: nn.Parameter | None = None
    for parent, name, module in list(_children(model)):
        if not isinstance(module, GroupedLinear | GroupedEmbedding):
            continue
        if module.packed is table:
            plain = plain if plain is not None else nn.Parameter(module.weight, requires_grad=False)
            setattr(parent, name, _plain(module, plain))
        elif isinstance(module, GroupedLinear) and module.layout.bits == 4:
            setattr(parent, name, TorchInt4Linear(module))


@cache
def _torchs_kernel_works() -> bool:
    """Whether this torch computes bfloat16 with 4-bit groups, as it should."""
    try:
        generator = torch.Generator().manual_seed(0)
        weight, x = torch.randn(48, 64, generator=generator), torch.randn(3, 64, generator=generator).bfloat16()
        packed = quantize(weight, 4)
        expected = GroupedLinear(packed, 48)(x.float())
        found = TorchInt4Linear(GroupedLinear(packed, 48))(x)
        return torch.allclose(found.float(), expected, atol=0.2, rtol=0.05)
    except (AttributeError, RuntimeError):
        return False


def is_grouped(model: Any) -> bool:
    """Whether any of its layers has grouped weights."""
    return any(isinstance(module, GroupedLinear | GroupedEmbedding) for module in model.modules())


def grouped_parameters(model: Any) -> int:
    """How many weights its grouped layers hold; tied ones count once."""
    layers = [module for module in model.modules() if isinstance(module, GroupedLinear | GroupedEmbedding)]
    repacked = [module for module in model.modules() if isinstance(module, TorchInt4Linear)]
    return sum(module.in_features * module.out_features for module in repacked) + sum(
        {
            layer.packed.data_ptr(): layer.in_features * layer.out_features
            if isinstance(layer, GroupedLinear)
            else layer.num_embeddings * layer.embedding_dim
            for layer in layers
        }.values()
    )


def _plain(module: GroupedLinear | GroupedEmbedding, weight: nn.Parameter) -> nn.Module:
    made: nn.Module  # of one value, as making large ones would fill them with random numbers
    if isinstance(module, GroupedEmbedding):
        made = nn.Embedding(1, 1)
        made.num_embeddings, made.embedding_dim = module.num_embeddings, module.embedding_dim
    else:
        made = nn.Linear(1, 1, bias=False)
        made.in_features, made.out_features, made.bias = module.in_features, module.out_features, module.bias
    made.weight = weight
    return made


def _computing(module: nn.Module, packed: Tensor, dtype: torch.dtype) -> GroupedLinear | GroupedEmbedding:
    if type(module) is nn.Embedding:
        made: GroupedLinear | GroupedEmbedding = GroupedEmbedding(packed, module.num_embeddings, dtype)
        inputs, found = module.embedding_dim, made.embedding_dim
    elif type(module) in (nn.Linear, Conv1D):
        outputs, inputs = (
            (module.nf, module.nx) if isinstance(module, Conv1D) else (module.out_features, module.in_features)
        )
        bias = None if module.bias is None else module.bias.data
        made = GroupedLinear(packed, outputs, bias, dtype)
        found = made.in_features
    else:
        raise ValueError(f"{type(module).__name__} can't have grouped weights")
    if found != inputs:
        raise ValueError(f"grouped weights of {found} inputs are not {inputs}")
    return made


def _children(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for parent in model.modules():
        for name, module in parent.named_children():
            yield parent, name, module


def _token_tables(model: Any) -> set[nn.Module]:
    """The embeddings of tokens and the layer that tells them apart again, where both are plain; those of generators."""
    try:
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return set()
    if type(head) is not nn.Linear or type(table) is not nn.Embedding or table.embedding_dim % GROUP:
        return set()
    return {head, table}
