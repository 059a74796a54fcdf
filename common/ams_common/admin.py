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
# What is summed over pods: whatever they say, the sum can be encoded.
Count = Annotated[int, Meta(ge=0, le=2**53)]


class GpuTotals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sums over GPUs, in GiB; None without a GPU."""

    gpu_total_gb: Annotated[float | None, Meta(description="Memory of all GPUs, in GiB.")] = None
    gpu_allocated_gb: Annotated[float | None, Meta(description="Memory in use by tensors, in GiB.")] = None
    gpu_reserved_gb: Annotated[float | None, Meta(description="Memory held by the allocator, in GiB.")] = None
    gpu_free_gb: Annotated[float | None, Meta(description="Memory that is free, in GiB.")] = None
    gpu_utilization_percent: Annotated[float | None, Meta(description="Percent of the memory that is in use.")] = None


class PodMemory(GpuTotals, frozen=True, kw_only=True):
    """`GET /admin/memory_status` of a pod."""

    timestamp: Annotated[float, Meta(description="Unix time, in seconds.")] = 0.0
    model: Annotated[str, Meta(description="Name of the model.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""
    gpu_available: Annotated[bool | None, Meta(description="Whether the model runs on a GPU.")] = None
    device: Annotated[str, Meta(description="Where the model computes: `cpu` or `cuda:0`.")] = ""
    ram_total_gb: Annotated[
        float | None, Meta(description="Memory of the machine or of the container's limit, in GiB.")
    ] = None
    ram_available_gb: Annotated[float | None, Meta(description="Memory that the pod may still use, in GiB.")] = None
    process_gb: Annotated[float | None, Meta(description="Resident memory of the model's process, in GiB.")] = None
    memory_warning: Annotated[bool | None, Meta(description="Less than 1 GB is free on the worst device.")] = None
    multimodal_safe: Annotated[bool | None, Meta(description="2 GB or more are free on the worst device.")] = None


class TempFileStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A temporary file of a request with media."""

    filename: Annotated[str, Meta(description="Name of the file.")] = ""
    size_bytes: Annotated[Count, Meta(description="Size in bytes.")] = 0
    size_mb: Annotated[float, Meta(description="Size in MiB.")] = 0.0
    age_minutes: Annotated[float, Meta(description="Minutes since the file was written.")] = 0.0
    age_hours: Annotated[float, Meta(description="Hours since the file was written.")] = 0.0
    path: Annotated[str, Meta(description="Path of the file.")] = ""
    model: Annotated[str, Meta(description="Name of the model, set by the gateway.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""


class PodTemp(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/temp_status` of a pod."""

    model: Annotated[str, Meta(description="Name of the model.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""
    temp_directory_exists: Annotated[bool, Meta(description="Whether the folder exists.")] = False
    temp_directory: Annotated[str, Meta(description="The folder.")] = ""
    total_files: Annotated[int, Meta(description="Number of files.")] = 0
    total_size_mb: Annotated[float, Meta(description="Size of all files, in MiB.")] = 0.0
    files: Annotated[list[TempFileStatus] | None, Meta(description="The files.")] = None
    folder_id: Annotated[str, Meta(description="Equal for pods that share a folder.")] = ""


class PodCleaned(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/cleanup_temp` of a pod."""

    model: Annotated[str, Meta(description="Name of the model.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""
    message: Annotated[str, Meta(description="A sentence for a person.")] = ""
    cleaned_files: Annotated[Count, Meta(description="Number of files that were removed.")] = 0
    total_size_mb: Annotated[float, Meta(description="Size of all files, in MiB.")] = 0.0


class PodCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/emergency_cleanup` of a pod."""

    model: Annotated[str, Meta(description="Name of the model.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""
    status: Annotated[
        Outcome, Meta(description="`partial` where some pods did not answer, `error` where none did.")
    ] = "success"
    message: Annotated[str, Meta(description="A sentence for a person.")] = ""
    timestamp: Annotated[int, Meta(description="Unix time, in seconds.")] = 0
    freed_bytes: Annotated[Count, Meta(description="Memory that was freed, in bytes.")] = 0
    cleaned_files: Annotated[Count, Meta(description="Number of files that were removed.")] = 0


class PodAdapter(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A LoRA adapter that a pod loads while it runs."""

    name: Annotated[str, Meta(description="Its name, behind the model's.")] = ""
    state: Annotated[str, Meta(description="`loading`, `ready` or `failed`.")] = ""
    served: Annotated[bool, Meta(description="Whether requests get one: what is asked for, or what was before.")] = (
        False
    )
    reason: Annotated[str, Meta(description="Why it failed, in one word.")] = ""
    message: Annotated[str, Meta(description="Why it failed, as a sentence.")] = ""
    asked: Annotated[str, Meta(description="Tells the source and lock that are asked for from others.")] = ""
    files: Annotated[Count, Meta(description="Number of its files whose sha256 is known.")] = 0
    sha256: Annotated[str, Meta(description="Of the sorted list of these files and their sha256.")] = ""


class PodModel(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/model_status` of a pod. Fields are None until the model is loaded."""

    model: Annotated[str, Meta(description="Name of the model.")] = ""
    pod: Annotated[str, Meta(description="Id of the pod, set by the gateway.")] = ""
    type: Annotated[str | None, Meta(description="The older server's word for the family.")] = None
    path: Annotated[str | None, Meta(description="Folder of the weights, or their source.")] = None
    path_exists: Annotated[bool, Meta(description="Whether the weights are there.")] = False
    quant_bits: Annotated[int | None, Meta(description="4, 8, or null for weights that aren't quantized.")] = None
    max_memory: Annotated[dict[str, Any] | None, Meta(description="Memory that the model may use, by device.")] = None
    state: Annotated[Phase, Meta(description="How far the model is.")] = Phase.PENDING
    modalities: Annotated[
        list[str] | None,
        Meta(description="What the model takes: `text`, `image`, `audio`, `video`; null until it is known."),
    ] = None
    architecture: Annotated[str | None, Meta(description="Architecture that config.json names.")] = None
    precision: Annotated[str | None, Meta(description="Type of the weights, such as `bfloat16`.")] = None
    quantization: Annotated[str | None, Meta(description="Quantization that is used.")] = None
    quantization_reason: Annotated[str, Meta(description="Why this quantization was chosen.")] = ""
    device: Annotated[str | None, Meta(description="Where the model computes: `cpu` or `cuda:0`.")] = None
    context_tokens: Annotated[int | None, Meta(description="Longest prompt and answer together, in tokens.")] = None
    engine: Annotated[
        str | None, Meta(description="Engine of another make, with its version, such as `vLLM 0.32.0`; null for ours.")
    ] = None
    engine_name: Annotated[str | None, Meta(description="What computes, as in `spec.engine.name`.")] = None
    engine_version: Annotated[
        str | None,
        Meta(
            description="Version of what computes: this product's of `builtin`, else what the engine says of itself;"
            " null while it says nothing."
        ),
    ] = None
    adapters: Annotated[
        list[PodAdapter] | None, Meta(description="LoRA adapters that come and go while it runs; null where none do.")
    ] = None


class UnreachablePod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod that didn't answer in time."""

    model: Annotated[str, Meta(description="Name of the model.")]
    pod: Annotated[str, Meta(description="Id of the pod.")]


class MemoryStatus(GpuTotals, frozen=True, kw_only=True):
    """`GET /admin/memory_status`: sums over all pods with a GPU; the two flags hold for the worst device of all."""

    timestamp: Annotated[int, Meta(description="Unix time, in seconds.")]
    gpu_available: Annotated[bool, Meta(description="Whether some model runs on a GPU.")]
    memory_warning: Annotated[bool | None, Meta(description="Less than 1 GB is free on the worst device.")] = None
    multimodal_safe: Annotated[bool | None, Meta(description="2 GB or more are free on the worst device.")] = None
    pods: Annotated[list[PodMemory], Meta(description="Report of each pod.")]
    unreachable: Annotated[list[UnreachablePod], Meta(description="Pods that did not answer within two seconds.")]


class TempStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/temp_status`: the files of all pods; a folder that several share counts once."""

    temp_directory_exists: Annotated[bool, Meta(description="Whether the folder exists.")]
    temp_directory: Annotated[str, Meta(description="The folder; several are separated by commas.")]
    total_files: Annotated[int, Meta(description="Number of files.")]
    total_size_mb: Annotated[float, Meta(description="Size of all files, in MiB.")]
    files: Annotated[list[TempFileStatus], Meta(description="The files.")]
    pods: Annotated[list[PodTemp], Meta(description="Report of each pod.")]
    unreachable: Annotated[list[UnreachablePod], Meta(description="Pods that did not answer within two seconds.")]


class CleanedTemp(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/cleanup_temp`."""

    message: Annotated[str, Meta(description="A sentence for a person.")]
    cleaned_files: Annotated[int, Meta(description="Number of files that were removed.")]
    total_size_mb: Annotated[float, Meta(description="Size of all files, in MiB.")]
    pods: Annotated[list[PodCleaned], Meta(description="Report of each pod.")]
    unreachable: Annotated[list[UnreachablePod], Meta(description="Pods that did not answer within two seconds.")]


class EmergencyCleanup(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/emergency_cleanup`; `partial` where some pods didn't answer."""

    status: Annotated[Outcome, Meta(description="`partial` where some pods did not answer, `error` where none did.")]
    message: Annotated[str, Meta(description="A sentence for a person.")]
    timestamp: Annotated[int, Meta(description="Unix time, in seconds.")]
    pods: Annotated[list[PodCleanup], Meta(description="Report of each pod.")]
    unreachable: Annotated[list[UnreachablePod], Meta(description="Pods that did not answer within two seconds.")]


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One model of `GET /admin/model_status`."""

    type: Annotated[str | None, Meta(description="The older server's word for the family.")]
    path: Annotated[str | None, Meta(description="Folder of the weights, or their source.")]
    path_exists: Annotated[bool, Meta(description="Whether the weights are there.")]
    quant_bits: Annotated[int | None, Meta(description="4, 8, or null for weights that aren't quantized.")]
    max_memory: Annotated[dict[str, Any] | None, Meta(description="Memory that the model may use, by device.")]
    state: Annotated[Phase, Meta(description="How far the model is.")]
    replicas: Annotated[int, Meta(description="Pods that should run.")]
    ready_replicas: Annotated[int, Meta(description="Pods that take requests.")]
    message: Annotated[str, Meta(description="A sentence for a person.")]
    modalities: Annotated[
        list[str] | None,
        Meta(description="What the model takes: `text`, `image`, `audio`, `video`; null until it is known."),
    ]
    download: Annotated[Download | None, Meta(description="Progress of the download, while there is one.")]
    pods: Annotated[list[PodModel], Meta(description="Report of each pod.")]
    engine: Annotated[str | None, Meta(description="What computes, as in `spec.engine.name`.")] = None
    engine_reason: Annotated[str | None, Meta(description="Why this engine.")] = None
    engine_version: Annotated[
        str | None, Meta(description="Version of what computes, as the newest pod tells it; null while none does.")
    ] = None


class ModelStatuses(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /admin/model_status`; names are spelled as in /generate routes."""

    timestamp: Annotated[int, Meta(description="Unix time, in seconds.")]
    available_models: Annotated[list[str], Meta(description="Names as /generate routes spell them.")]
    model_configs: Annotated[dict[str, ModelConfig], Meta(description="What is known of each model, by name.")]
    unreachable: Annotated[list[UnreachablePod], Meta(description="Pods that did not answer within two seconds.")]


class ModelAction(msgspec.Struct, frozen=True, kw_only=True):
    """`POST /admin/models/{model}/start` and `/stop`."""

    model: Annotated[str, Meta(description="Name of the model.")]
    state: Annotated[Phase, Meta(description="How far the model is at this moment; `GET /overview` tells on.")]
    message: Annotated[str, Meta(description="A sentence for a person.")]
