"""Weights from a folder into a module."""

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ams_common.lifecycle import Phase
from transformers import BitsAndBytesConfig
from transformers.utils.logging import set_tqdm_hook

from ams_pod.engines.builtin.memory.out_of_memory import is_out_of_memory
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.grouped import Bits
from ams_pod.engines.builtin.model.grouping import GroupedConfig, dequantize_modules, grouped_parameters, is_grouped
from ams_pod.engines.port import LoadFailed, ReportPhase

_SAMPLED_VALUES = 64
_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)


def load_weights(
    model_class: Any,
    folder: Path,
    placement: Placement,
    report: ReportPhase,
    unquantized: Sequence[str] = (),
    *,
    may_lack: Collection[str] = (),
) -> Any:
    """The model of `folder` as `model_class` builds it, where `placement` says. `unquantized` are names of modules.

    `may_lack` are those whose weights needn't be there, as nothing is asked of them.

    LoadFailed if the files don't fit it; whatever `is_out_of_memory` knows if memory runs out.
    """
    arguments: dict[str, Any] = {}
    if placement.spread is not None:
        arguments = {"device_map": "auto", "max_memory": dict(placement.spread)}
    elif placement.device != "cpu" or placement.quantization != "none":
        arguments = {"device_map": {"": placement.device}}  # each tensor goes to its device as it is read
    quantizes = placement.quantization != "none" and not placement.keeps_groups
    phase = Phase.QUANTIZING if quantizes else Phase.READING
    if quantizes:
        arguments["quantization_config"] = _quantization(placement, unquantized)
    try:
        with _percent(lambda percent: report(phase, percent)):
            model, found = model_class.from_pretrained(
                folder,
                dtype=placement.dtype,
                local_files_only=True,
                output_loading_info=True,
                **arguments,
            )
    except (*_FAULTS, MemoryError) as error:
        if is_out_of_memory(error):
            raise
        raise LoadFailed(f"{type(error).__name__}: {error}") from error
    if placement.quantization == "none" and not placement.keeps_groups and is_grouped(model):
        dequantize_modules(model)
    if missing := sorted(name for name in found["missing_keys"] if name.partition(".")[0] not in may_lack):
        raise LoadFailed(  # transformers would fill them at random
            f"the weights lack {len(missing)} tensors of {type(model).__name__}, {missing[0]} among them"
        )
    if (name := _first_without_values(model)) is not None:
        raise LoadFailed(f"the weights of {name} are not numbers (NaN): the files are damaged, or training diverged")
    return model.eval()


def _first_without_values(model: Any) -> str | None:
    """The first parameter that begins with NaN, by a few values of each: a pass over all of them would take seconds."""
    begins = {
        name: parameter.detach().reshape(-1)[:_SAMPLED_VALUES]
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and not parameter.is_meta and parameter.is_contiguous()
    }
    flags = {name: torch.isnan(values).any() for name, values in begins.items() if values.numel()}
    by_device: dict[torch.device, list[str]] = {}
    for name, flag in flags.items():
        by_device.setdefault(flag.device, []).append(name)
    for names in by_device.values():  # one answer of each device, whatever the number of tensors
        bad = torch.stack([flags[name] for name in names]).tolist()
        if found := [name for name, is_bad in zip(names, bad, strict=True) if is_bad]:
            return found[0]
    return None


def load_processor(processor_class: Any, folder: Path) -> Any:
    """The tokenizer or processor of `folder`. LoadFailed if its files are missing or damaged."""
    try:
        return processor_class.from_pretrained(folder, local_files_only=True)
    except _FAULTS as error:
        raise LoadFailed(f"{type(error).__name__}: {error}") from error


def count_parameters(model: Any) -> int:
    """As the authors count them: a byte of 4-bit weights holds two."""
    packed = sum(parameter.numel() for parameter in model.parameters() if type(parameter).__name__ == "Params4bit")
    return sum(parameter.numel() for parameter in model.parameters()) + packed + grouped_parameters(model)


def weight_bytes(model: Any) -> int:
    """What parameters and buffers take, quantized ones as they are stored."""
    return int(model.get_memory_footprint())


def _quantization(placement: Placement, unquantized: Sequence[str]) -> GroupedConfig | BitsAndBytesConfig:
    if placement.device == "cpu":
        bits: Bits = 8 if placement.quantization == "8bit" else 4
        return GroupedConfig(bits=bits, skipped=_patterns(unquantized))
    for name in ("bitsandbytes.autograd._functions", "bitsandbytes.backends.cpu.ops"):
        logging.getLogger(name).setLevel(logging.ERROR)  # one warning for each call of each layer
    skipped = _patterns(["lm_head", *unquantized])
    if placement.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=placement.dtype,
        llm_int8_skip_modules=skipped,
    )


def _patterns(names: Sequence[str]) -> list[str]:
    return [rf"(?:.*\.)?{name}" for name in names]


@contextlib.contextmanager
def _percent(report: Callable[[float], None]) -> Iterator[None]:
    """Report how many of the tensors are loaded: transformers counts them for a progress bar that nobody sees."""

    def hook(factory: Callable[..., Any], arguments: Sequence[Any], options: dict[str, Any]) -> Any:
        if options.get("desc") == "Loading weights" and arguments:
            return _counted(arguments[0], report)
        return factory(*arguments, **options)

    previous = set_tqdm_hook(hook)
    try:
        yield
    finally:
        set_tqdm_hook(previous)


def _counted(items: Any, report: Callable[[float], None]) -> Iterator[Any]:
    total, reported = len(items), -1
    for index, item in enumerate(items):
        if (percent := 100 * index // total) > reported:
            report(percent)
            reported = percent
        yield item
    report(100)
