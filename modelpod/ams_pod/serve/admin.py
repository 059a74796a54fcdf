"""The older server's admin routes, for this pod alone; the gateway puts all pods together."""

import asyncio
import gc
import time
from collections.abc import Sequence

import msgspec
from aiohttp import web
from ams_common.admin import PodAdapter, PodCleaned, PodCleanup, PodMemory, PodModel, PodTemp, TempFileStatus
from ams_common.families import BY_NAME

from ams_pod.engines.port import AdapterView, MemoryUsage
from ams_pod.heap import trim_heap
from ams_pod.media.temp import TempFile, TempFolder
from ams_pod.serve.keys import POD
from ams_pod.serve.pod import ModelPod
from ams_pod.versions import PRODUCT, installed_version

_MIB = 1 << 20
_GIB = 1 << 30
_WARNING_BYTES, _MULTIMODAL_BYTES = 1 * _GIB, 2 * _GIB
_FREEING_SECONDS = 1.0  # the compute thread frees between steps; the gateway waits two seconds in all
_LOOK_SECONDS = 0.05
_BITS = {"8bit": 8, "4bit": 4}


async def memory_status(request: web.Request) -> web.Response:
    pod = request.app[POD]
    return _json(describe_memory(pod.settings.name, pod.ready().memory(), time.time()))


async def model_status(request: web.Request) -> web.Response:
    """What is known of the model, loaded or not: the older server's fields, and how far it is."""
    pod = request.app[POD]
    return _json(describe(pod))


async def temp_status(request: web.Request) -> web.Response:
    pod = request.app[POD]
    return _json(await asyncio.to_thread(describe_folder, pod.settings.name, pod.intake.folder, time.time()))


async def cleanup_temp(request: web.Request) -> web.Response:
    """Remove our temp files that no request uses."""
    pod = request.app[POD]
    removed = await asyncio.to_thread(pod.intake.folder.clean)
    size = _mb(sum(file.bytes for file in removed))
    message = f"Removed {len(removed)} temporary files of {size:g} MB; files in use stay."
    return _json(PodCleaned(model=pod.settings.name, message=message, cleaned_files=len(removed), total_size_mb=size))


async def emergency_cleanup(request: web.Request) -> web.Response:
    """Give back what no running request needs: garbage, allocators' caches, temp files."""
    pod = request.app[POD]
    engine = pod.ready()
    before = engine.memory()
    engine.free_memory()
    removed = await asyncio.to_thread(_tidy, pod.intake.folder)
    freed = _freed_bytes(before, engine.memory())
    deadline = asyncio.get_running_loop().time() + _FREEING_SECONDS
    while asyncio.get_running_loop().time() < deadline:  # the engine doesn't say when it is done
        await asyncio.sleep(_LOOK_SECONDS)
        freed = max(freed, _freed_bytes(before, engine.memory()))
    return _json(
        PodCleanup(
            model=pod.settings.name,
            message=f"Freed {_mb(freed):g} MB of memory and {len(removed)} temporary files.",
            timestamp=int(time.time()),
            freed_bytes=freed,
            cleaned_files=len(removed),
        )
    )


def describe_memory(model: str, usage: MemoryUsage, now: float) -> PodMemory:
    """The body of /admin/memory_status, at Unix time `now`: in GiB, and whether the fullest device is short."""
    gpu = usage.gpu
    least_free = usage.ram_available_bytes if gpu is None else gpu.least_free_bytes
    body = PodMemory(
        timestamp=now,
        model=model,
        gpu_available=gpu is not None,
        device=usage.device,
        ram_total_gb=_gb(usage.ram_total_bytes),
        ram_available_gb=_gb(usage.ram_available_bytes),
        process_gb=_gb(usage.process_bytes),
        memory_warning=least_free < _WARNING_BYTES,
        multimodal_safe=least_free >= _MULTIMODAL_BYTES,
    )
    if gpu is None:
        return body
    return msgspec.structs.replace(
        body,
        gpu_total_gb=_gb(gpu.total_bytes),
        gpu_allocated_gb=_gb(gpu.allocated_bytes),
        gpu_reserved_gb=_gb(gpu.reserved_bytes),
        gpu_free_gb=_gb(gpu.free_bytes),
        gpu_utilization_percent=round(100 * (gpu.total_bytes - gpu.free_bytes) / gpu.total_bytes, 1),
    )


def describe(pod: ModelPod) -> PodModel:
    """The body of /admin/model_status."""
    settings, engine = pod.settings, pod.engine
    info = engine.info if engine else None
    quantization = info.quantization if info else settings.quantization
    family = BY_NAME.get(info.family if info else settings.family)
    return PodModel(
        model=settings.name,
        type=family.model_type if family else None,
        path=str(pod.folder),
        path_exists=pod.folder.exists(),
        quant_bits=_BITS.get(quantization),
        max_memory=msgspec.json.decode(settings.max_memory) if settings.max_memory else None,
        state=pod.progress.phase,
        modalities=list(engine.capabilities.modalities) if engine else None,
        architecture=info.architecture if info else None,
        precision=info.precision if info else None,
        quantization=quantization,
        quantization_reason=info.quantization_reason if info else "",
        device=info.device if info else None,
        context_tokens=info.context_tokens if info else None,
        engine=info.engine if info and pod.engine_health is not None else None,
        engine_name=settings.engine,
        engine_version=_engine_version(pod) or None,
        adapters=None if pod.adapter_views is None else [_adapter(each) for each in pod.adapter_views],
    )


def _engine_version(pod: ModelPod) -> str:
    """Empty while nothing computes: what comes in its place may be of another version."""
    if (health := pod.engine_health) is not None:
        return health.version if health.available else ""
    return installed_version(PRODUCT) if pod.engine is not None else ""


def _adapter(view: AdapterView) -> PodAdapter:
    return PodAdapter(
        name=view.name,
        state=view.stage,
        served=bool(view.version),
        reason=view.reason,
        message=view.message,
        asked=view.asked,
        files=view.files,
        sha256=view.sha256,
    )


def describe_folder(model: str, folder: TempFolder, now: float) -> PodTemp:
    """The body of /admin/temp_status, at Unix time `now`."""
    files = folder.files()
    return PodTemp(
        model=model,
        temp_directory_exists=folder.path.is_dir(),
        temp_directory=str(folder.path),
        total_files=len(files),
        total_size_mb=_mb(sum(file.bytes for file in files)),
        files=[_file(model, file, now) for file in files],
        folder_id=folder.identity(),
    )


def _file(model: str, file: TempFile, now: float) -> TempFileStatus:
    age = max(0.0, now - file.modified)
    return TempFileStatus(
        filename=file.path.name,
        size_bytes=file.bytes,
        size_mb=_mb(file.bytes),
        age_minutes=round(age / 60, 2),
        age_hours=round(age / 3600, 2),
        path=str(file.path),
        model=model,
    )


def _tidy(folder: TempFolder) -> Sequence[TempFile]:
    gc.collect()
    trim_heap()
    return folder.clean()


def _freed_bytes(before: MemoryUsage, after: MemoryUsage) -> int:
    """How much less this process holds, on its GPU and in memory."""
    freed = max(0, before.process_bytes - after.process_bytes)
    if before.gpu is not None and after.gpu is not None:
        freed += max(0, before.gpu.reserved_bytes - after.gpu.reserved_bytes)
    return freed


def _gb(size: int) -> float:
    return round(size / _GIB, 3)


def _mb(size: int) -> float:
    return round(size / _MIB, 2)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
