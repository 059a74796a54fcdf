"""Memory of this process's device, in the older server's fields; and how much a cache may take."""

import os
import time
from typing import Any

import torch

from ams_pod.resident import resident_bytes

_GIB = 1 << 30
_WARNING_BYTES, _MULTIMODAL_BYTES = 1 * _GIB, 2 * _GIB


def available_bytes() -> int:
    """Memory that this process may still take, in bytes: what the machine has available, or the container's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and limit[0].strip().isdigit() and used:
        available = min(available, int(limit[0]) - int(used[0]))
    return max(0, available)


def status(device: str) -> dict[str, Any]:
    """The fields of /admin/memory_status. On CPU the figures are those of the machine's RAM."""
    total_ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free_ram = available_bytes()
    fields: dict[str, Any] = {
        "timestamp": time.time(),
        "gpu_available": device != "cpu",
        "device": device,
        "ram_total_gb": _gb(total_ram),
        "ram_available_gb": _gb(free_ram),
        "process_gb": _gb(resident_bytes()),
    }
    free = free_ram
    if device != "cpu":
        free, total = torch.cuda.mem_get_info()
        allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        fields |= {
            "gpu_total_gb": _gb(total),
            "gpu_allocated_gb": _gb(allocated),
            "gpu_reserved_gb": _gb(reserved),
            "gpu_free_gb": _gb(free),
            "gpu_utilization_percent": round(100 * (total - free) / total, 1),
        }
    return fields | {"memory_warning": free < _WARNING_BYTES, "multimodal_safe": free >= _MULTIMODAL_BYTES}


def fit_context(model_tokens: int, bytes_per_token: int, rows: int, available: int) -> int:
    """Tokens a request may use when none is asked for: the model's own, if all rows fit half the free memory.

    At least 512 (or the model's own), so that a small machine still answers; in whole steps of 64.
    """
    affordable = available // 2 // max(1, rows * bytes_per_token)
    return min(model_tokens, max(512, affordable // 64 * 64))


def _gb(value: int) -> float:
    return round(value / _GIB, 3)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().splitlines()
    except OSError:
        return []
