"""The reports of all pods put together into the older server's fields."""

from collections.abc import Sequence

import msgspec
from ams_common.admin import (
    CleanedTemp,
    EmergencyCleanup,
    MemoryStatus,
    Outcome,
    PodCleaned,
    PodCleanup,
    PodMemory,
    PodTemp,
    TempFileStatus,
    TempStatus,
    UnreachablePod,
)

_MIB = 1 << 20


def total_memory(pods: Sequence[PodMemory], unreachable: Sequence[UnreachablePod], timestamp: int) -> MemoryStatus:
    """GPU fields only when some pod has a GPU; warning and safety hold for the worst device."""
    with_gpu = [pod for pod in pods if pod.gpu_available]
    judged = [pod for pod in pods if pod.memory_warning is not None]
    status = MemoryStatus(
        timestamp=timestamp,
        gpu_available=bool(with_gpu),
        memory_warning=any(pod.memory_warning for pod in judged) if judged else None,
        multimodal_safe=all(pod.multimodal_safe for pod in judged) if judged else None,
        pods=list(pods),
        unreachable=list(unreachable),
    )
    if not with_gpu:
        return status
    total = round(sum(pod.gpu_total_gb or 0.0 for pod in with_gpu), 2)
    free = round(sum(pod.gpu_free_gb or 0.0 for pod in with_gpu), 2)
    return msgspec.structs.replace(
        status,
        gpu_total_gb=total,
        gpu_allocated_gb=round(sum(pod.gpu_allocated_gb or 0.0 for pod in with_gpu), 2),
        gpu_reserved_gb=round(sum(pod.gpu_reserved_gb or 0.0 for pod in with_gpu), 2),
        gpu_free_gb=free,
        gpu_utilization_percent=round(100 * (total - free) / total, 1) if total else 0.0,
    )


def total_temp(pods: Sequence[PodTemp], unreachable: Sequence[UnreachablePod]) -> TempStatus:
    """The files of all folders; a folder that several pods share counts for the first of them."""
    by_folder = {pod.folder_id or f"{pod.model}/{pod.pod}": pod for pod in reversed(pods)}
    folders = list(reversed(by_folder.values()))
    files: list[TempFileStatus] = [
        msgspec.structs.replace(file, model=pod.model, pod=pod.pod) for pod in folders for file in pod.files or ()
    ]
    return TempStatus(
        temp_directory_exists=any(pod.temp_directory_exists for pod in folders),
        temp_directory=", ".join(dict.fromkeys(pod.temp_directory for pod in folders if pod.temp_directory)),
        total_files=len(files),
        total_size_mb=round(sum(file.size_bytes for file in files) / _MIB, 2),
        files=files,
        pods=[msgspec.structs.replace(pod, files=None) for pod in pods],
        unreachable=list(unreachable),
    )


def total_cleaned(pods: Sequence[PodCleaned], unreachable: Sequence[UnreachablePod]) -> CleanedTemp:
    files = sum(pod.cleaned_files for pod in pods)
    size = round(sum(pod.total_size_mb for pod in pods), 2)
    missing = f" {len(unreachable)} of {len(pods) + len(unreachable)} pods did not answer." if unreachable else ""
    return CleanedTemp(
        message=f"Removed {files} temporary files of {size:g} MB; files in use stay.{missing}",
        cleaned_files=files,
        total_size_mb=size,
        pods=list(pods),
        unreachable=list(unreachable),
    )


def total_cleanup(
    pods: Sequence[PodCleanup], unreachable: Sequence[UnreachablePod], timestamp: int
) -> EmergencyCleanup:
    status: Outcome = "success"
    message = "No model is loaded: there is nothing to free."
    if pods or unreachable:
        freed = sum(pod.freed_bytes for pod in pods) / _MIB
        message = f"Freed {freed:.1f} MB on {len(pods)} of {len(pods) + len(unreachable)} pods."
    if unreachable:
        status = "partial" if pods else "error"
        message = f"{message} The others did not answer."
    return EmergencyCleanup(
        status=status, message=message, timestamp=timestamp, pods=list(pods), unreachable=list(unreachable)
    )
