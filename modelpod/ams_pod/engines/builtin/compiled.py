"""The compiled library `ams-kernels`: its C interface, and whether it can be used here."""

import ctypes
import importlib.util
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from typing import Any

_VERSION = 4  # of the C interface
_allowed = True
PARTS = ("qkv", "attention", "out", "gate and up", "down", "head", "norms", "waiting for a thread")


class LinearC(Structure):
    """`AmsLinear`: y = x·Wᵀ + b, with W in tiles. `bits` is 16 for bfloat16, 8 or 4 for grouped weights."""

    _fields_ = (
        ("outputs", c_int64),
        ("k", c_int64),
        ("packed", c_void_p),
        ("bias", c_void_p),
        ("bits", c_int32),
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


def allow(wanted: bool) -> None:
    """Whether models that are loaded from now on may use the kernels."""
    global _allowed
    _allowed = wanted


def load() -> Any | None:
    """The library; None where `unavailable` says why."""
    return _find()[0] if _allowed else None


def unavailable() -> str:
    """Why there is no library to be used; empty where there is one."""
    return _find()[1] if _allowed else "they are switched off (AMS_KERNELS)"


@cache
def _find() -> tuple[Any | None, str]:
    if importlib.util.find_spec("ams_kernels") is None:
        return None, "the package ams-kernels isn't installed"
    import ams_kernels

    path = ams_kernels.library()
    if path is None:
        return None, "there are none for this kind of machine"
    try:
        library = ctypes.CDLL(str(path))
        library.ams_layers.argtypes = [POINTER(ModelC), POINTER(StepC), c_int64, c_int64]
        library.ams_logits.argtypes = [POINTER(ModelC), c_void_p, c_void_p, c_int64, c_void_p]
        library.ams_linear.argtypes = [POINTER(LinearC), c_void_p, c_int64, c_void_p]
        library.ams_draw.argtypes = [c_void_p, c_int, c_int64, c_int64, c_int64, POINTER(DrawC), c_void_p]
        library.ams_use.argtypes = [c_int]
        library.ams_use.restype = None
        library.ams_timings.argtypes = [POINTER(c_double * len(PARTS)), c_int]
        library.ams_timings.restype = None
        version, supported = library.ams_version(), library.ams_supported()
    except (OSError, AttributeError) as error:
        return None, f"{path} can't be loaded ({error})"
    if version != _VERSION:
        return None, f"{path} is of version {version}, and this program knows {_VERSION}"
    if not supported:
        return None, "the processor lacks AVX512 with VNNI and bfloat16"
    return library, ""


def computes_grouped() -> bool:
    """Whether grouped weights are computed with as they are. Otherwise each step unpacks all of them again."""
    return load() is not None


def use_threads(count: int) -> None:
    """How many threads the library's next calls run on, the caller's among them."""
    if (library := _find()[0]) is not None:
        library.ams_use(count)


def timings(*, reset: bool = True) -> dict[str, float]:
    """Seconds that the first thread spent in each part of all calls, since the last reset."""
    library = _find()[0]
    if library is None:
        return {}
    seconds = (c_double * len(PARTS))()
    library.ams_timings(ctypes.byref(seconds), int(reset))
    return dict(zip(PARTS, seconds, strict=True))
