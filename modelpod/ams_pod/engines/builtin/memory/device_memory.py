"""Memory of this process's devices, in the older server's fields; and how much a cache may take."""

import json
import os
import time
from collections.abc import Mapping
from typing import Any

import torch
from ams_common import memory

from ams_pod.engines.port import LoadFailed
from ams_pod.resident import read_text, resident_bytes

_GIB = 1 << 30
_WARNING_BYTES, _MULTIMODAL_BYTES = 1 * _GIB, 2 * _GIB


def available_bytes() -> int:
    """Memory that this process may still take, in bytes: the machine's, or its container's where that is less."""
    available = memory.available_bytes(read_text)
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if available is None else available


def limits(max_memory: str) -> dict[str, int]:
    """Device ("cpu", or a GPU's number) to the most bytes that this process may take there; from JSON, maybe empty.

    LoadFailed if it is something else.
    """
    try:
        given = json.loads(max_memory or "{}")
        return {str(device): int(size) for device, size in given.items()}
    except (ValueError, TypeError, AttributeError):
        raise LoadFailed(f"maxMemory is a JSON object of device to bytes, not {max_memory!r}") from None


def free_bytes(device: str, limits: Mapping[str, int]) -> int:
    """What this process may still take on a device ("cpu", "cuda", "cuda:1"), within its limits."""
    if device == "cpu":
        free, taken, limit = available_bytes(), resident_bytes(), limits.get("cpu")
    else:
        number = int(device.partition(":")[2] or 0)
        free = torch.cuda.mem_get_info(number)[0]
        held = torch.cuda.memory_reserved(number)
        free += held - torch.cuda.memory_allocated(number)  # the allocator's own spare blocks
        taken, limit = torch.cuda.memory_allocated(number), limits.get(str(number))
    return free if limit is None else max(0, min(free, limit - taken))


def status(device: str) -> dict[str, Any]:
    """The fields of /admin/memory_status, sums over GPUs. On CPU the figures are those of the machine's RAM."""
    total_ram = memory.total_bytes(read_text) or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free_ram = available_bytes()
    fields: dict[str, Any] = {
        "timestamp": time.time(),
        "gpu_available": device != "cpu",
        "device": device,
        "ram_total_gb": _gb(total_ram),
        "ram_available_gb": _gb(free_ram),
        "process_gb": _gb(resident_bytes()),
    }
    if device == "cpu":
        worst = free_ram
    else:
        gpus = range(torch.cuda.device_count())
        pairs = [torch.cuda.mem_get_info(gpu) for gpu in gpus]
        worst, free, total = min(pair[0] for pair in pairs), sum(pair[0] for pair in pairs), sum(p[1] for p in pairs)
        fields |= {
            "gpu_total_gb": _gb(total),
            "gpu_allocated_gb": _gb(sum(map(torch.cuda.memory_allocated, gpus))),
            "gpu_reserved_gb": _gb(sum(map(torch.cuda.memory_reserved, gpus))),
            "gpu_free_gb": _gb(free),
            "gpu_utilization_percent": round(100 * (total - free) / total, 1),
        }
    return fields | {"memory_warning": worst < _WARNING_BYTES, "multimodal_safe": worst >= _MULTIMODAL_BYTES}


def fit_context(model_tokens: int, bytes_per_token: int, rows: int, available: int) -> int:
    """Tokens a request may use when none is asked for: the model's own, if all rows fit half the free memory.

    At least 512 (or the model's own), so that a small machine still answers; in whole steps of 64.
    """
    affordable = available // 2 // max(1, rows * bytes_per_token)
    return min(model_tokens, max(512, affordable // 64 * 64))


def _gb(value: int) -> float:
    return round(value / _GIB, 3)
