"""Bodies of the admin routes: what one pod answers, and what the gateway makes of all pods' answers.

The names are the older server's; what it didn't have is added. A pod may be of another version than the gateway, so
every field that a gateway reads has a default.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ams_common.lifecycle import Phase
from ams_common.progress import Download

Outcome = Literal["success", "partial", "error"]


class GpuTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums over GPUs, in GiB; None without a GPU."""

    gpu_total_gb: float | None = None
    gpu_allocated_gb: Annotated[float | None, Meta(description="in use by tensors")] = None
    gpu_reserved_gb: Annotated[float | None, Meta(description="held by the allocator")] = None
    gpu_free_gb: float | None = None
    gpu_utilization_percent: Annotated[float | None, Meta(description="share of the memory that is taken")] = None


class PodMemory(GpuTotals, frozen=True, kw_only=True):
    """`GET /admin/memory_status` of a pod."""

    timestamp: Annotated[float, Meta(description="Unix time")] = 0.0
    model: str = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""
    gpu_available: Annotated[bool | None, Meta(description="the model runs on a GPU")] = None
    device: str = ""
    ram_total_gb: float | None = None
    ram_available_gb: Annotated[float | None, Meta(description="what the pod may still take")] = None
    process_gb: Annotated[float | None, Meta(description="resident memory of the model's process")] = None
    memory_warning: Annotated[bool | None, Meta(description="less than 1 GB free on the worst device")] = None
    multimodal_safe: Annotated[bool | None, Meta(description="2 GB or more free on the worst device")] = None


class TempFileStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A temporary file of a request with media."""

    filename: str = ""
    size_bytes: int = 0
    size_mb: float = 0.0
    age_minutes: float = 0.0
    age_hours: float = 0.0
    path: str = ""
    model: Annotated[str, Meta(description="set by the gateway")] = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""


class PodTemp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`GET /admin/temp_status` of a pod."""

    model: str = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""
    temp_directory_exists: bool = False
    temp_directory: str = ""
    total_files: int = 0
    total_size_mb: float = 0.0
    files: list[TempFileStatus] | None = None
    folder_id: Annotated[str, Meta(description="equal for pods that share a folder")] = ""


class PodCleaned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /admin/cleanup_temp` of a pod."""

    model: str = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""
    message: str = ""
    cleaned_files: int = 0
    total_size_mb: float = 0.0


class PodCleanup(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`POST /admin/emergency_cleanup` of a pod."""

    model: str = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""
    status: Outcome = "success"
    message: str = ""
    timestamp: Annotated[int, Meta(description="Unix time")] = 0
    freed_bytes: int = 0
    cleaned_files: int = 0


class PodModel(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/model_status` of a pod. Fields are None until the model is loaded."""

    model: str = ""
    pod: Annotated[str, Meta(description="set by the gateway")] = ""
    type: Annotated[str | None, Meta(description="the older server's word for the family")] = None
    path: str | None = None
    path_exists: bool = False
    quant_bits: Annotated[int | None, Meta(description="4, 8, or null for weights that aren't quantized")] = None
    max_memory: Annotated[dict[str, Any] | None, Meta(description="bytes by device")] = None
    state: Phase = Phase.PENDING
    modalities: list[str] | None = None
    architecture: str | None = None
    precision: str | None = None
    quantization: str | None = None
    quantization_reason: str = ""
    device: str | None = None
    context_tokens: int | None = None


class UnreachablePod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that didn't answer in time."""

    model: str
    pod: str


class MemoryStatus(GpuTotals, frozen=True, kw_only=True):
    """`GET /admin/memory_status`: sums over all pods with a GPU; the two flags hold for the worst device of all."""

    timestamp: Annotated[int, Meta(description="Unix time")]
    gpu_available: bool
    memory_warning: Annotated[bool | None, Meta(description="less than 1 GB free on the worst device")] = None
    multimodal_safe: Annotated[bool | None, Meta(description="2 GB or more free on the worst device")] = None
    pods: list[PodMemory]
    unreachable: list[UnreachablePod]


class TempStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/temp_status`: the files of all pods; a folder that several share counts once."""

    temp_directory_exists: bool
    temp_directory: str
    total_files: int
    total_size_mb: float
    files: list[TempFileStatus]
    pods: list[PodTemp]
    unreachable: list[UnreachablePod]


class CleanedTemp(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/cleanup_temp`."""

    message: str
    cleaned_files: int
    total_size_mb: float
    pods: list[PodCleaned]
    unreachable: list[UnreachablePod]


class EmergencyCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/emergency_cleanup`; `partial` where some pods didn't answer."""

    status: Outcome
    message: str
    timestamp: Annotated[int, Meta(description="Unix time")]
    pods: list[PodCleanup]
    unreachable: list[UnreachablePod]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model of `GET /admin/model_status`."""

    type: str | None
    path: str | None
    path_exists: bool
    quant_bits: int | None
    max_memory: dict[str, Any] | None
    state: Phase
    replicas: int
    ready_replicas: int
    message: str
    modalities: list[str] | None
    download: Download | None
    pods: list[PodModel]


class ModelStatuses(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/model_status`; names are spelled as in /generate routes."""

    timestamp: Annotated[int, Meta(description="Unix time")]
    available_models: list[str]
    model_configs: dict[str, ModelConfig]
    unreachable: list[UnreachablePod]
