"""The model of a folder whose tensors are called, shaped and typed as its modules' are: each is put in its place.

transformers' own loading renames, converts and merges tensors for all the checkpoints that it knows, which takes longer
than reading a small model. Where nothing of that is to be done, this is the same model, and its weights are the mapped
files.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from ams_common.outside import InvalidJson, read_json
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig

from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.grouping import compute_grouped
from ams_pod.engines.builtin.model.stack import UnsupportedStack, find_body, find_stack

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


class NotAsNamed(Exception):
    """Something is to be converted, renamed or made up; the message says what."""


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def load_as_named(model_class: Any, folder: Path, placement: Placement) -> Any:
    """The model of `folder` on the CPU, whose stack our decoder computes. NotAsNamed."""
    if placement.device != "cpu" or placement.spread is not None:
        raise NotAsNamed("it isn't for the CPU alone")
    if placement.quantization != "none" and not placement.keeps_groups:
        raise NotAsNamed("its weights are to be quantized")
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            model = model_class.from_config(config, dtype=placement.dtype)
        _check(model, config, placement)
        tensors = _read(folder)
        _put(model, tensors, placement)
        body = find_body(model)
        body.rotary_emb = type(body.rotary_emb)(body.config)
    except (*_FAULTS, SafetensorError) as error:
        raise NotAsNamed(f"{type(error).__name__}: {error}") from None
    except UnsupportedStack as reason:
        raise NotAsNamed(str(reason)) from None
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise NotAsNamed(f"{name} has no value")
    return model.eval()


def _check(model: Any, config: Any, placement: Placement) -> None:
    """Of the model without values: whether there is nothing in it but what is put in place here."""
    find_stack(model)
    if (getattr(config, "quantization_config", None) is not None) != placement.keeps_groups:
        raise NotAsNamed("its weights are quantized in another way")
    if any(getattr(model, name, None) for name in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict")):
        raise NotAsNamed("some of its modules stay in float32")


def _read(folder: Path) -> Mapping[str, Tensor]:
    """All tensors by name, of the files that transformers would read."""
    tensors: dict[str, Tensor] = {}
    for name in _files(folder):
        with safe_open(folder / name, "pt") as file:
            tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118  # it is no mapping
    return tensors


def _files(folder: Path) -> Sequence[str]:
    if (folder / _SINGLE).is_file():
        return (_SINGLE,)
    try:
        index = read_json((folder / _INDEX).read_bytes(), _Index)
    except InvalidJson as error:
        raise NotAsNamed(f"{_INDEX} {error}") from None
    names = sorted(set(index.weight_map.values()))
    if any(Path(name).name != name for name in names):
        raise NotAsNamed(f"{_INDEX} names a file of another folder")
    return names


def _put(model: Any, tensors: Mapping[str, Tensor], placement: Placement) -> None:
    """Each tensor in the place of the parameter of its name, tied ones in all of theirs."""
    places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    names: dict[str, nn.Parameter] = {}
    for name, module, attribute, parameter in _parameters(model):
        places.setdefault(parameter, []).append((module, attribute))
        names[name] = parameter
    if surplus := tensors.keys() - names.keys():
        raise NotAsNamed(f"it has no {min(surplus)}")
    given: dict[nn.Parameter, Tensor] = {}
    for name, tensor in tensors.items():
        if names[name] in given:
            raise NotAsNamed(f"{name} is there twice, and tied")
        given[names[name]] = tensor
    for name, parameter in names.items():
        if parameter not in given:
            raise NotAsNamed(f"the weights lack {name}")
    for parameter, where in places.items():
        tensor = given[parameter]
        is_group = placement.keeps_groups and tensor.dtype == torch.uint8
        if not is_group and (tensor.dtype != placement.dtype or tensor.shape != parameter.shape):
            raise NotAsNamed(f"a tensor is {tensor.dtype} {tuple(tensor.shape)}")
        value = nn.Parameter(tensor, requires_grad=False)
        for module, attribute in where:
            setattr(module, attribute, value)
    if placement.keeps_groups:
        compute_grouped(model, placement.dtype)


def _parameters(model: Any) -> Iterator[tuple[str, nn.Module, str, nn.Parameter]]:
    for prefix, module in model.named_modules():
        for attribute, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield (f"{prefix}.{attribute}" if prefix else attribute), module, attribute, parameter
