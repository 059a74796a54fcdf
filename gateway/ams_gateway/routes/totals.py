"""What the pods said, put together in the older server's fields."""

from collections.abc import Sequence
from typing import Any

_SUMMED = ("gpu_total_gb", "gpu_allocated_gb", "gpu_reserved_gb", "gpu_free_gb")
_MIB = 1 << 20

Said = Sequence[dict[str, Any]]
"""The answers of pods, each with its `model` and `pod`. A pod may be of another version: nothing is taken for sure."""


def total_memory(pods: Said) -> dict[str, Any]:
    """GPU fields only when some pod has a GPU; warning and safety hold for the worst device."""
    total: dict[str, Any] = {}
    with_gpu = [pod for pod in pods if pod.get("gpu_available") is True]
    total["gpu_available"] = bool(with_gpu)
    if with_gpu:
        for name in _SUMMED:
            total[name] = round(sum(_number(pod.get(name)) for pod in with_gpu), 2)
        used = total["gpu_total_gb"] - total["gpu_free_gb"]
        whole = total["gpu_total_gb"]
        total["gpu_utilization_percent"] = round(100 * used / whole, 1) if whole else 0.0
    if told := [pod for pod in pods if "memory_warning" in pod]:
        total["memory_warning"] = any(pod["memory_warning"] is True for pod in told)
        total["multimodal_safe"] = all(pod.get("multimodal_safe") is True for pod in told)
    return total


def total_files(pods: Said) -> dict[str, Any]:
    """The files of all folders; a folder that several pods look at counts once."""
    folders = {pod.get("folder_id") or f"{pod['model']}/{pod['pod']}": pod for pod in reversed(pods)}
    seen = list(reversed(folders.values()))
    files = [
        file | {"model": pod["model"], "pod": pod["pod"]}
        for pod in seen
        for file in pod.get("files") or ()
        if isinstance(file, dict)
    ]
    return {
        "temp_directory_exists": any(pod.get("temp_directory_exists") is True for pod in seen),
        "temp_directory": ", ".join(
            dict.fromkeys(str(pod["temp_directory"]) for pod in seen if "temp_directory" in pod)
        ),
        "total_files": len(files),
        "total_size_mb": round(sum(_number(file.get("size_bytes")) for file in files) / _MIB, 2),
        "files": files,
    }


def total_cleaned(pods: Said, unreachable: int) -> dict[str, Any]:
    files = sum(int(_number(pod.get("cleaned_files"))) for pod in pods)
    size = round(sum(_number(pod.get("total_size_mb")) for pod in pods), 2)
    missing = f" {unreachable} of {len(pods) + unreachable} pods did not answer." if unreachable else ""
    return {
        "message": f"Removed {files} temporary files of {size:g} MB; files in use stay.{missing}",
        "cleaned_files": files,
        "total_size_mb": size,
    }


def outcome(pods: Said, unreachable: int) -> tuple[str, str]:
    """(`success`, `partial` or `error`; a sentence) of a clean-up."""
    if not pods and not unreachable:
        return "success", "No model is loaded: there is nothing to free."
    freed = sum(_number(pod.get("freed_bytes")) for pod in pods) / _MIB
    done = f"Freed {freed:.1f} MB on {len(pods)} of {len(pods) + unreachable} pods"
    if not unreachable:
        return "success", f"{done}."
    return ("partial" if pods else "error"), f"{done}; the others did not answer."


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
