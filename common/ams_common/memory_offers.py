"""Where a model may run, what it may take there, and whether it fits: one answer for operator and `ams plan`. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ams_common.fit import DeviceMemory, Fit, Need, Shape, fit_on, needs, shape_of, stored_bytes_per_parameter
from ams_common.grouped_weights import GroupedWeights, grouped_weights
from ams_common.pod_settings import Quantization
from ams_common.resource.spec import Spec

_MOST_PRECISE_FIRST = ("none", "8bit", "4bit")


@dataclass(frozen=True, slots=True)
class MemoryOffer:
    """Memory of one place. `place` is how a sentence names it: `node a`, `spec.maxMemory`."""

    place: str
    memory: DeviceMemory


@dataclass(frozen=True, slots=True)
class MemoryOffers:
    """All places where a model may run. Where none is known `unknown` says why, and what to set."""

    options: tuple[MemoryOffer, ...] = ()
    unknown: str = ""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What memory depends on. `quantized_by` is the method of weights that come quantized; they stay as they are.

    `grouped` are those of a GGUF file, which stay so or are unpacked.
    """

    parameters: int
    shape: Shape
    weights_bytes: int
    quantized_by: str | None = None
    grouped: GroupedWeights | None = None


def size_of(config: Mapping[str, Any], weights_bytes: int, parameters: int | None = None) -> ModelSize:
    """From config.json and the size of the files; parameters are counted from these where the hub didn't."""
    own = config.get("quantization_config")
    method = str(own.get("quant_method", "its authors")) if isinstance(own, Mapping) else None
    grouped = grouped_weights(config)
    count = grouped.parameters if grouped else parameters or weights_bytes // stored_bytes_per_parameter(config)
    return ModelSize(count, shape_of(config), weights_bytes, grouped.words if grouped else method, grouped)


def needs_for(spec: Spec, size: ModelSize, *, rows: int | None = None) -> tuple[Need, ...]:
    """What the model takes in each quantization that it may have, with the cache that its limits ask for.

    `rows` are the requests that the cache holds, where these are others than may run at once.
    """
    limits = spec.limits
    result = needs(
        size.parameters,
        size.shape,
        rows=rows or limits.concurrent_requests,
        context_tokens=None if limits.context_tokens == "auto" else limits.context_tokens,
        precision="bfloat16" if spec.precision == "auto" else spec.precision,
    )
    if size.quantized_by is None:
        return result
    if size.grouped is not None:
        kept = size.grouped.quantization
        return result[0], Need(kept, size.grouped.words, size.weights_bytes, result[0].cache_bytes)
    return (Need("none", size.quantized_by, size.weights_bytes, result[0].cache_bytes),)


def choices(spec: Spec, size: ModelSize, *, gpus: bool) -> tuple[Need, ...]:
    """What a pod with or without GPUs chooses from, the most precise first, as `spec.quantization` allows.

    The groups of a GGUF file stay as they are on a CPU. (One for which there are no kernels unpacks them if they fit.)
    """
    candidates = needs_for(spec, size)
    if size.grouped is not None:
        plain, kept = candidates
        if spec.quantization == "none":
            return (plain,)
        return (plain, kept) if gpus else (kept,)
    if size.quantized_by is not None or spec.quantization == "auto":
        return candidates
    return tuple(need for need in candidates if need.quantization == spec.quantization)


def best_fit(spec: Spec, size: ModelSize, options: Sequence[MemoryOffer]) -> tuple[MemoryOffer, Fit]:
    """The place where the model keeps most precision, the roomiest among equals, and how it fits there.

    `options` has at least one.
    """
    wanted: Quantization = spec.quantization if size.quantized_by is None else "auto"

    def merit(option: tuple[MemoryOffer, Fit]) -> tuple[bool, bool, int, tuple[int, ...], int]:
        offer, fit = option
        precision = -_MOST_PRECISE_FIRST.index(fit.chosen)
        return fit.fits, not fit.spread, precision, offer.memory.gpus, offer.memory.ram or 0

    def fit(memory: DeviceMemory) -> Fit:
        return fit_on(choices(spec, size, gpus=bool(memory.gpus)), memory, wanted=wanted)

    return max(((offer, fit(offer.memory)) for offer in options), key=merit)
