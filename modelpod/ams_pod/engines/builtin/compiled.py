"""The compiled libraries of `ams-kernels`, one for a kind of processor: their C interface, and which is used here."""

import ctypes
import importlib.util
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

_VERSION = 8  # of the C interface
# Kinds of processors, the fastest kernels first, and what each needs.
VARIANTS = {"avx512": "AVX512 with VNNI and bfloat16", "avx2": "AVX2 with FMA and F16C"}
_chosen = "auto"
PARTS = ("qkv", "attention", "out", "gate and up", "down", "head", "norms", "waiting for a thread")


class LinearC(Structure):
    """`AmsLinear`: y = x·Wᵀ + b, with W in tiles. `layout` is 16 for bfloat16, or the number of a `Layout`."""

    _fields_ = (
        ("outputs", c_int64),
        ("k", c_int64),
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("layout", c_int32),
        ("unused", c_int32),
    )


class LayerC(Structure):
    """`AmsLayer`."""

    _fields_ = (
        *((name, LinearC) for name in ("query", "key", "value", "out", "gate", "up", "down")),
        *((name, c_void_p) for name in ("input_norm", "post_norm", "query_norm", "key_norm", "cache")),
    )


class ModelC(Structure):
    """`AmsModel`."""

    _fields_ = (
        ("layers", POINTER(LayerC)),
        *(
            (name, c_int64)
            for name in ("layer_count", "hidden", "inner", "query_heads", "key_heads", "head_size", "pool_tokens")
        ),
        ("final_norm", c_void_p),
        ("head", LinearC),
        ("epsilon", c_float),
        ("scale", c_float),
    )


class ChunkC(Structure):
    """`AmsChunk`."""

    _fields_ = tuple((name, c_int64) for name in ("first", "count", "keys", "base", "stride", "singly"))


class StepC(Structure):
    """`AmsStep`."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "rows", "chunk_count")),
        *((name, c_void_p) for name in ("x", "cos", "sin", "base", "stride", "position")),
        ("chunks", POINTER(ChunkC)),
    )


class DrawC(Structure):
    """`AmsDraw`."""

    _fields_ = (
        ("seed", c_uint64),
        ("top_k", c_int64),
        *((name, c_float) for name in ("temperature", "top_p", "min_p")),
        ("unused", c_int32),
    )


class SpanC(Structure):
    """`AmsSpan`."""

    _fields_ = tuple((name, c_int64) for name in ("first", "count", "keys"))


class AttentionC(Structure):
    """`AmsAttention`."""

    _fields_ = (
        *((name, c_int64) for name in ("heads", "head_size", "span_count")),
        *((name, c_void_p) for name in ("query", "key", "value")),
        *((name, c_int64) for name in ("query_stride", "key_stride", "value_stride")),
        *((name, c_void_p) for name in ("cos", "sin")),
        ("spans", POINTER(SpanC)),
        *((name, c_void_p) for name in ("tiles", "out")),
        ("scale", c_float),
        ("unused", c_int32),
    )


class TablesC(Structure):
    """`AmsTables`."""

    _fields_ = (
        *((name, c_void_p) for name in ("embeddings", "cos", "sin")),
        *((name, c_int64) for name in ("vocabulary", "positions", "hidden", "head_size")),
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """A library that was opened, and which of `VARIANTS` it is."""

    library: Any
    variant: str


def choose(wanted: str) -> None:
    """What models that are loaded from now on may use: "auto", "off", or one of `VARIANTS`. ValueError for another."""
    global _chosen
    if wanted not in ("auto", "off", *VARIANTS):
        raise ValueError(f"there are no kernels {wanted!r}: auto, off, {', '.join(VARIANTS)}")
    _chosen = wanted


def load() -> Any | None:
    """The library; None where `unavailable` says why."""
    found = _find(_chosen)
    return found.library if isinstance(found, Kernels) else None


def unavailable() -> str:
    """Why there is no library to be used; empty where there is one."""
    found = _find(_chosen)
    return "" if isinstance(found, Kernels) else found


def variant() -> str:
    """Which of `VARIANTS` is used; empty where none is."""
    found = _find(_chosen)
    return found.variant if isinstance(found, Kernels) else ""


@cache
def _find(wanted: str) -> Kernels | str:
    """The kernels, or why there are none."""
    if wanted == "off":
        return "they are switched off (AMS_KERNELS)"
    if wanted != "auto":
        return _open(wanted)
    reasons = []
    for name in VARIANTS:
        found = _open(name)
        if isinstance(found, Kernels):
            return found
        reasons.append(found)
    return reasons[-1]  # why even those that need the least aren't there


def _open(name: str) -> Kernels | str:
    if importlib.util.find_spec("ams_kernels") is None:
        return "the package ams-kernels isn't installed"
    import ams_kernels

    if name not in getattr(ams_kernels, "VARIANTS", ()):
        return "the package ams-kernels is of an earlier version"
    path = ams_kernels.library(name)
    if path is None:
        return "there are none for this kind of machine"
    try:
        library = ctypes.CDLL(str(path))
        library.ams_gather.argtypes = [POINTER(TablesC), c_int64, *[c_void_p] * 5]
        library.ams_layers.argtypes = [POINTER(ModelC), POINTER(StepC), c_int64, c_int64, POINTER(c_int32)]
        library.ams_layers.restype = c_int64
        library.ams_logits.argtypes = [POINTER(ModelC), c_void_p, c_void_p, c_int64, c_void_p]
        library.ams_linear.argtypes = [POINTER(LinearC), c_void_p, c_int64, c_void_p]
        library.ams_attend.argtypes = [POINTER(AttentionC), c_int64, c_int64, c_int64, c_int64, c_int]
        library.ams_attention_room.argtypes = [POINTER(AttentionC)]
        library.ams_attention_room.restype = c_int64
        library.ams_draw.argtypes = [c_void_p, c_int, c_int64, c_int64, c_int64, POINTER(DrawC), c_void_p]
        library.ams_use.argtypes = [c_int]
        library.ams_use.restype = None
        library.ams_timings.argtypes = [POINTER(c_double * len(PARTS)), c_int]
        library.ams_timings.restype = None
        version, supported = library.ams_version(), library.ams_supported()
    except (OSError, AttributeError) as error:
        return f"{path} can't be loaded ({error})"
    if version != _VERSION:
        return f"{path} is of version {version}, and this program knows {_VERSION}"
    if not supported:
        return f"the processor lacks {VARIANTS[name]}"
    return Kernels(library, name)


def computes_grouped() -> bool:
    """Whether grouped weights are computed with as they are. Otherwise each step unpacks all of them again."""
    return load() is not None


def use_threads(count: int) -> None:
    """How many threads the library's next calls run on, the caller's among them."""
    if (library := load()) is not None:
        library.ams_use(count)


def timings(*, reset: bool = True) -> dict[str, float]:
    """Seconds that the first thread spent in each part of all calls, since the last reset."""
    if (library := load()) is None:
        return {}
    seconds = (c_double * len(PARTS))()
    library.ams_timings(ctypes.byref(seconds), int(reset))
    return dict(zip(PARTS, seconds, strict=True))
