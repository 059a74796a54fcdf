"""The compiled library `ams-kernels`: its C interface, and whether it can be used here."""

import ctypes
import importlib.util
import logging
import os
import re
from ctypes import POINTER, Structure, c_double, c_float, c_int, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

PARTS = ("qkv", "attention", "out", "gate and up", "down", "head", "norms", "waiting")


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

    _fields_ = tuple((name, c_int64) for name in ("first", "count", "keys", "base", "stride"))


class StepC(Structure):
    """`AmsStep`."""

    _fields_ = (
        *((name, c_int64) for name in ("tokens", "rows", "chunk_count")),
        *((name, c_void_p) for name in ("x", "cos", "sin", "base", "stride", "position")),
        ("chunks", POINTER(ChunkC)),
    )


class _ThreadsC(Structure):
    _fields_ = tuple((name, c_void_p) for name in ("parallel", "number", "count"))


@cache
def load() -> Any | None:
    """The library; None where it isn't installed, this processor lacks what it needs, or it is switched off."""
    if os.environ.get("AMS_KERNELS") == "off" or importlib.util.find_spec("ams_kernels") is None:
        return None
    import ams_kernels

    path = ams_kernels.library()
    if path is None:
        return None
    try:
        library = ctypes.CDLL(str(path))
        library.ams_layers.argtypes = [POINTER(ModelC), POINTER(StepC), c_int64, c_int64]
        library.ams_logits.argtypes = [POINTER(ModelC), c_void_p, c_void_p, c_int64, c_void_p]
        library.ams_linear.argtypes = [POINTER(LinearC), c_void_p, c_int64, c_void_p]
        library.ams_use.argtypes = [_ThreadsC, c_int]
        library.ams_use.restype = None
        library.ams_timings.argtypes = [POINTER(c_double * len(PARTS)), c_int]
        library.ams_timings.restype = None
        version, supported = library.ams_version(), library.ams_supported()
    except (OSError, AttributeError) as error:
        log.warning("the kernels in %s can't be used: %s", path, error)
        return None
    if version != ams_kernels.VERSION or version != 1:
        log.warning("the kernels in %s are of version %d, another than this program's", path, version)
        return None
    return library if supported else None


def use_threads(count: int) -> None:
    """How many of the calling thread's OpenMP threads the library's calls run on: those that torch's run on."""
    library, threads = load(), _openmp()
    if library is not None:
        library.ams_use(threads or _ThreadsC(), count if threads is not None else 1)


@cache
def _openmp() -> _ThreadsC | None:
    """The functions of the OpenMP runtime that torch brought along. A second one's threads would get in its way."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for path in sorted(set(re.findall(r"(/\S*/lib(?:gomp|iomp5|omp)[-.\w]*\.so[.\d]*)$", maps, re.MULTILINE))):
        try:
            runtime = ctypes.CDLL(path)
            functions = (runtime.GOMP_parallel, runtime.omp_get_thread_num, runtime.omp_get_num_threads)
        except (OSError, AttributeError):
            continue
        return _ThreadsC(*(ctypes.cast(function, c_void_p) for function in functions))
    return None


def timings(*, reset: bool = True) -> dict[str, float]:
    """Seconds that the first thread spent in each part of all calls, since the last reset."""
    library = load()
    if library is None:
        return {}
    seconds = (c_double * len(PARTS))()
    library.ams_timings(ctypes.byref(seconds), int(reset))
    return dict(zip(PARTS, seconds, strict=True))


__all__ = ["ChunkC", "LayerC", "LinearC", "ModelC", "StepC", "load", "timings", "use_threads"]
