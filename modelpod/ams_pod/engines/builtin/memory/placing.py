"""In which quantization and on which devices the weights are loaded: the choice, from sizes and free memory."""

import logging
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import torch
from ams_common.fit import (
    Chosen,
    DeviceMemory,
    Need,
    choose_fit,
    needs,
    shape_of,
    spread,
    stored_bytes_per_parameter,
    too_large_sentence,
)
from ams_common.grouped_weights import GroupedWeights, grouped_weights
from ams_common.outside import InvalidJson, read_json
from ams_common.pod_settings import ServeSettings
from ams_common.quantity import format_bytes
from ams_common.reasons import Reason

from ams_pod.engines.builtin.compiled import computes_grouped
from ams_pod.engines.builtin.memory import device_memory
from ams_pod.engines.builtin.memory.out_of_memory import drop_frames, is_out_of_memory, release
from ams_pod.engines.port import LoadFailed

T = TypeVar("T")
log = logging.getLogger(__name__)

_LARGEST_HEADER_BYTES = 100 << 20

_SMALLER: dict[Chosen, tuple[Chosen, ...]] = {"none": ("8bit", "4bit"), "8bit": ("4bit",), "4bit": ()}


@dataclass(frozen=True, slots=True)
class Placement:
    """`spread` is bytes for each device ("cpu" and GPUs by number) where one device is too small, else None.

    `keeps_groups`: weights that a folder holds in groups stay so, `quantization` says of how many bits; else they are
    unpacked into `dtype`.
    """

    device: str
    dtype: torch.dtype
    quantization: Chosen = "none"
    reason: str = ""
    spread: Mapping[int | str, int] | None = None
    keeps_groups: bool = False


@dataclass(frozen=True, slots=True)
class PlacementInputs:
    """What the choice depends on. `free` and `ram` are bytes, within the limits that were set."""

    parameters: int
    config: Mapping[str, Any]
    settings: ServeSettings
    device: str
    dtype: torch.dtype
    free: Mapping[int, int]  # of each GPU; empty on a CPU
    ram: int


def choose_placement(inputs: PlacementInputs) -> Placement:
    """By `ams_common.fit`, as the operator and `ams plan` do. LoadFailed if the weights fit nowhere."""
    device, dtype, settings = inputs.device, inputs.dtype, inputs.settings
    setting = settings.quantization
    if (grouped := grouped_weights(inputs.config)) is not None:
        return _place_grouped(inputs, grouped)
    if (own := inputs.config.get("quantization_config")) is not None:
        method = own.get("quant_method", "its authors") if isinstance(own, dict) else "its authors"
        if setting in ("8bit", "4bit"):
            raise LoadFailed(f"quantization {setting} is set, but the weights are quantized already ({method})")
        return Placement(device, dtype, "none", f"the weights come quantized by {method}")
    sizes = _needs(inputs)
    free = inputs.ram if device == "cpu" else inputs.free[0]
    fit = choose_fit(sizes, free, wanted=setting, device=device)
    placement = Placement(device, dtype, fit.chosen, fit.reason)
    if fit.fits:
        return placement
    if (placed := _spread(inputs, sizes[0])) is not None:
        return replace(placement, quantization="none", reason=f"{fit.reason}: spread over devices", spread=placed)
    chosen = _need(sizes, fit.chosen)
    if chosen.weights_bytes > free:
        raise LoadFailed(too_large_sentence(fit.reason), Reason.DOES_NOT_FIT_MEMORY)
    return replace(placement, reason=f"{fit.reason}; the weights do, with less for the cache")


def _place_grouped(inputs: PlacementInputs, grouped: GroupedWeights) -> Placement:
    """As the file has them, where they are computed with so or memory is short; else unpacked."""
    came = f"the weights come quantized ({grouped.words})"
    kept = Placement(inputs.device, inputs.dtype, grouped.quantization, came, keeps_groups=True)
    setting = inputs.settings.quantization
    if inputs.device == "cpu" and (setting in ("8bit", "4bit") or (setting == "auto" and computes_grouped())):
        return kept
    free = inputs.ram if inputs.device == "cpu" else inputs.free[0]
    plain = _needs(inputs)[0]
    fits = plain.total_bytes <= free
    words = f"; in {plain.words} they {'fit' if fits else 'do not fit'} {format_bytes(free)}"
    if fits or setting == "none":
        return replace(kept, quantization="none", reason=came + words, keeps_groups=False)
    return replace(kept, reason=came + words)


def next_smaller(placement: Placement, inputs: PlacementInputs) -> Placement | None:
    """What to try when memory ran out while loading; None if there is nothing left."""
    if placement.spread is not None or placement.keeps_groups:
        return None
    if (grouped := grouped_weights(inputs.config)) is not None:
        if inputs.settings.quantization == "none":
            return None
        reason = f"memory ran out while unpacking into {_needs(inputs)[0].words}"
        return replace(placement, quantization=grouped.quantization, reason=reason, keeps_groups=True)
    sizes = _needs(inputs)
    if inputs.settings.quantization == "auto" and "quantization_config" not in inputs.config:
        for smaller in _SMALLER[placement.quantization]:
            reason = f"memory ran out while loading in {_need(sizes, placement.quantization).words}"
            return replace(placement, quantization=smaller, reason=reason)
    if (placed := _spread(inputs, sizes[0])) is not None:
        return replace(
            placement, quantization="none", reason="memory of the GPU ran out: spread over devices", spread=placed
        )
    return None


def place_weights(inputs: PlacementInputs, build: Callable[[Placement], T]) -> T:
    """What `build` makes of the chosen placement, or of smaller ones when memory runs out while it does.

    LoadFailed if it ran out for all.
    """
    placement: Placement | None = choose_placement(inputs)
    while placement is not None:
        log.info("weights in %s: %s", placement.quantization, placement.reason)
        failure: Exception | None = None
        try:
            built = build(placement)
            release(inputs.device)  # loading leaves as much behind as it loaded
            return built
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            failure = error
        log.warning("memory ran out while loading (%s)", str(failure).partition("\n")[0])
        drop_frames(failure)
        release(inputs.device)
        tried, placement = placement, next_smaller(placement, inputs)
    need = _need(_needs(inputs), tried.quantization)
    sentence = f"memory ran out while loading {format_bytes(need.weights_bytes)} of weights in {need.words}"
    raise LoadFailed(too_large_sentence(sentence), Reason.DOES_NOT_FIT_MEMORY)


def best_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device computes in it; else float16 on a GPU, float32 on a CPU."""
    if device == "cpu":
        return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def measure(
    folder: Path, config: Mapping[str, Any], settings: ServeSettings, device: str, dtype: torch.dtype, prefix: str = ""
) -> PlacementInputs:
    """Sizes of the weights whose names begin with `prefix`, and the memory that is free now."""
    limits = device_memory.limits(settings.max_memory)
    gpus = range(torch.cuda.device_count()) if device != "cpu" else range(0)
    return PlacementInputs(
        parameters=stored_parameters(folder, config, prefix),
        config=config,
        settings=settings,
        device=device,
        dtype=dtype,
        free={number: device_memory.free_bytes(f"cuda:{number}", limits) for number in gpus},
        ram=device_memory.free_bytes("cpu", limits),
    )


def stored_parameters(folder: Path, config: Mapping[str, Any], prefix: str = "") -> int:
    """From the headers of the weights' files; from their sizes where they have none. Of grouped ones as they say.

    Only tensors whose names begin with `prefix` count, where there are any.
    """
    if (grouped := grouped_weights(config)) is not None:
        return grouped.parameters
    tensors = list(_tensors(folder))
    counts = [count for name, count in tensors if name.startswith(prefix)] or [count for _, count in tensors]
    if counts:
        return sum(counts)
    pickled = sum(path.stat().st_size for path in folder.glob("*.bin"))
    return pickled // stored_bytes_per_parameter(config)


def _needs(inputs: PlacementInputs) -> tuple[Need, ...]:
    result = needs(
        inputs.parameters,
        shape_of(inputs.config),
        rows=inputs.settings.concurrent_requests,
        context_tokens=inputs.settings.context_tokens or None,
        precision=str(inputs.dtype).removeprefix("torch."),
    )
    return tuple(need.on(inputs.device) for need in result)


def _need(sizes: tuple[Need, ...], quantization: Chosen) -> Need:
    return next(need for need in sizes if need.quantization == quantization)


def _spread(inputs: PlacementInputs, plain: Need) -> Mapping[int | str, int] | None:
    """Bytes for weights on each device, where spreading them helps and they fit all together."""
    if inputs.device == "cpu" or inputs.settings.quantization in ("8bit", "4bit"):
        return None
    return spread(plain, DeviceMemory(tuple(inputs.free[gpu] for gpu in sorted(inputs.free)), inputs.ram))


class _Tensor(msgspec.Struct):
    shape: list[Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]] = []


def _tensors(folder: Path) -> Iterator[tuple[str, int]]:
    """Name and number of values of each tensor. A file without a valid header has none: loading it says why."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with path.open("rb") as file:
                (length,) = struct.unpack("<Q", file.read(8))
                length = min(length, _LARGEST_HEADER_BYTES)
                header = read_json(file.read(length), dict[str, _Tensor], max_bytes=_LARGEST_HEADER_BYTES)
        except (OSError, InvalidJson, struct.error):
            continue
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, math.prod(tensor.shape)
