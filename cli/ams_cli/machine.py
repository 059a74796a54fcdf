"""What this machine has: memory and GPUs. Memory is None where there is no /proc."""

import os
import re
import subprocess
from pathlib import Path


def resident_bytes(pid: int) -> int | None:
    """Memory that a process holds, what it shares with others included."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:")


def available_bytes() -> int | None:
    """Memory that new processes can get without swapping."""
    return _field(Path("/proc/meminfo"), "MemAvailable:")


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
    command = ["nvidia-smi", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return tuple(sorted((int(line) << 20 for line in done.stdout.split()), reverse=True))
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


def _field(path: Path, name: str) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None
