"""What this machine has: memory and GPUs. Memory is None where there is no /proc."""

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ams_common import memory
from ams_pod.resident import read_text


@dataclass(frozen=True, slots=True)
class Memory:
    """Of the device that models run on: `available` bytes, None if unknown, and those of processes by their pid."""

    available: int | None
    held: dict[int, int]


def device_memory(pids: Sequence[int]) -> Memory:
    """The GPU's where there is one whose driver tells, else the machine's. May take a second."""
    if gpu_count() and (free := gpu_free_bytes()):
        return Memory(free[0], gpu_held_bytes())
    held = {pid: private_bytes(pid) for pid in pids}
    return Memory(ram_available(), {pid: size for pid, size in held.items() if size is not None})


def process_resident_bytes(pid: int) -> int | None:
    """Memory that a process holds, what it shares with others included."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def private_bytes(pid: int) -> int | None:
    """Memory that comes back when a process ends: what it holds and shares with nobody."""
    path = Path(f"/proc/{pid}/smaps_rollup")
    clean, dirty = _field(path, "Private_Clean:"), _field(path, "Private_Dirty:")
    return None if clean is None or dirty is None else clean + dirty


def ram_available() -> int | None:
    """Bytes that new processes can get without swapping, within the limit of our container if there is one."""
    return memory.available_bytes(read_text)


def gpu_count(devices: Path = Path("/dev")) -> int:
    """GPUs that a process of ours can open: NVIDIA's by their device files, AMD's where its compute driver is."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return 0
    names = os.listdir(devices) if devices.is_dir() else []
    nvidia = sum(1 for name in names if re.fullmatch(r"nvidia\d+", name))
    render = devices / "dri"
    amd = (
        sum(1 for name in os.listdir(render) if name.startswith("renderD")) if "kfd" in names and render.is_dir() else 0
    )
    return nvidia or amd


def gpu_free_bytes() -> tuple[int, ...]:
    """Free memory of each NVIDIA GPU, largest first; empty where the driver's tool tells nothing."""
    try:
        return tuple(sorted((int(free) << 20 for (free,) in _nvidia_smi("gpu=memory.free")), reverse=True))
    except ValueError:
        return ()


def gpu_held_bytes() -> dict[int, int]:
    """GPU memory of each process by its pid, as far as the driver's tool sees them (in a container it may not)."""
    held: dict[int, int] = {}
    for pid, used in _nvidia_smi("compute-apps=pid,used_memory"):
        if pid.isdigit() and used.isdigit():
            held[int(pid)] = held.get(int(pid), 0) + (int(used) << 20)
    return held


def _nvidia_smi(query: str) -> list[list[str]]:
    """Rows of cells; none where there is no such tool, or it fails."""
    command = ["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _field(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
