"""Memory of this process's devices, and how much of it a cache may take."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from ams_common import memory

from ams_pod.engines.port import GpuMemory, LoadFailed, MemoryUsage
from ams_pod.resident import read_text, resident_bytes

_LEAST_FREE = 128 << 20
_MOST_PREFIX_TOKENS = 1 << 20  # more are found no better, and each block of them takes the process's own memory


def ram_available() -> int:
    """Memory that this process may still take, in bytes: the machine's, or its container's where that is less."""
    available = memory.available_bytes(read_text)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if available is None else available


def limits(max_memory: str) -> dict[str, int]:
    """Device ("cpu", or a GPU's number) to the most bytes that this process may take there; from JSON, maybe empty.

    LoadFailed if it is something else.
    """
    try:
        sizes = json.loads(max_memory or "{}")
        return {str(device): int(size) for device, size in sizes.items()}
    except (ValueError, TypeError, AttributeError):
        raise LoadFailed(f"maxMemory is a JSON object of device to bytes, not {max_memory!r}") from None


def free_bytes(device: str, limits: Mapping[str, int]) -> int:
    """What this process may still take on a device ("cpu", "cuda", "cuda:1"), within its limits."""
    if device == "cpu":
        free, taken, limit = ram_available(), resident_bytes(), limits.get("cpu")
    else:
        number = int(device.partition(":")[2] or 0)
        free = torch.cuda.mem_get_info(number)[0]
        held = torch.cuda.memory_reserved(number)
        free += held - torch.cuda.memory_allocated(number)  # the allocator's own spare blocks
        taken, limit = torch.cuda.memory_allocated(number), limits.get(str(number))
    return free if limit is None else max(0, min(free, limit - taken))


def is_short(device: str, limits: Mapping[str, int]) -> bool:
    """Whether so little is free that caches that nobody needs should go. On GPUs they take no more than they have."""
    return device == "cpu" and free_bytes(device, limits) < max(_LEAST_FREE, _total() // 32)


def usage(device: str) -> MemoryUsage:
    """What there is and what this process takes, of the machine and, with a model on GPUs, of all of them."""
    return MemoryUsage(
        device=device,
        ram_total_bytes=_total(),
        ram_available_bytes=ram_available(),
        process_bytes=resident_bytes(),
        gpu=None if device == "cpu" else _gpu_memory(),
    )


def _total() -> int:
    return memory.total_bytes(read_text) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gpu_memory() -> GpuMemory:
    gpus = range(torch.cuda.device_count())
    pairs = [torch.cuda.mem_get_info(gpu) for gpu in gpus]
    return GpuMemory(
        total_bytes=sum(total for _, total in pairs),
        allocated_bytes=sum(map(torch.cuda.memory_allocated, gpus)),
        reserved_bytes=sum(map(torch.cuda.memory_reserved, gpus)),
        free_bytes=sum(free for free, _ in pairs),
        least_free_bytes=min(free for free, _ in pairs),
    )


@dataclass(frozen=True, slots=True)
class CacheSize:
    """Tokens: the longest request, all requests together, and the longest one where each has room of its own.

    `prefixes` are kept of requests that ended.
    """

    context: int
    tokens: int
    context_each: int
    prefixes: int = 0


def fit_cache(
    model_tokens: int, bytes_per_token: int, rows: int, available: int, context: int = 0, prefixes: int = -1
) -> CacheSize:
    """How large the cache of a model made for `model_tokens` may be, in half of the `available` memory.

    `context` is the longest request where one is set; else (0) it is as long as the model and the memory allow, and at
    least 512 tokens (or the model's own), so that a small machine still answers. `prefixes` is what is kept of requests
    that ended where that is set; else (-1) it is what fits a fifth of the memory. In whole steps of 64 tokens.
    """
    affordable = available // 2 // max(1, bytes_per_token) // 64 * 64
    each = context or min(model_tokens, max(512, affordable // max(1, rows) // 64 * 64))
    longest = context or min(model_tokens, max(512, affordable))
    if prefixes < 0:
        prefixes = min(_MOST_PREFIX_TOKENS, available // 5 // max(1, bytes_per_token) // 64 * 64)
    return CacheSize(longest, min(rows * longest, max(longest, affordable)), each, prefixes)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().splitlines()
    except OSError:
        return []
