"""The older server's admin routes, for this pod alone; the gateway puts all pods together."""

import asyncio
import gc
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import web
from ams_common.families import BY_NAME

from ams_pod.heap import trim_heap
from ams_pod.media.temp import TempFile, TempFolder
from ams_pod.serve.keys import POD
from ams_pod.serve.pod import Pod

_MIB = 1 << 20
_GIB = 1 << 30
_FREEING_SECONDS = 1.0  # the compute thread frees between steps; the gateway waits two seconds in all
_LOOK_SECONDS = 0.05
_BITS = {"8bit": 8, "4bit": 4}


async def memory_status(request: web.Request) -> web.Response:
    pod = request.app[POD]
    runtime = pod.ready()
    return _json({"model": pod.settings.name, **runtime.memory()})


async def model_status(request: web.Request) -> web.Response:
    """What is known of the model, loaded or not: the older server's fields, and how far it is."""
    pod = request.app[POD]
    return _json(describe(pod))


async def temp_status(request: web.Request) -> web.Response:
    folder = request.app[POD].intake.folder
    return _json(await asyncio.to_thread(describe_folder, folder))


async def cleanup_temp(request: web.Request) -> web.Response:
    """Remove our temp files that no request uses."""
    removed = await asyncio.to_thread(request.app[POD].intake.folder.clean)
    size = _mb(sum(file.bytes for file in removed))
    message = f"Removed {len(removed)} temporary files of {size:g} MB; files in use stay."
    return _json({"message": message, "cleaned_files": len(removed), "total_size_mb": size})


async def emergency_cleanup(request: web.Request) -> web.Response:
    """Give back what no running request needs: garbage, allocators' caches, temp files."""
    pod = request.app[POD]
    runtime = pod.ready()
    before = runtime.memory()
    runtime.free_memory()
    removed = await asyncio.to_thread(_tidy, pod.intake.folder)
    freed = _freed_bytes(before, runtime.memory())
    deadline = asyncio.get_running_loop().time() + _FREEING_SECONDS
    while asyncio.get_running_loop().time() < deadline:  # the compute thread tells nobody
        await asyncio.sleep(_LOOK_SECONDS)
        freed = max(freed, _freed_bytes(before, runtime.memory()))
    return _json(
        {
            "status": "success",
            "message": f"Freed {_mb(freed):g} MB of memory and {len(removed)} temporary files.",
            "timestamp": int(time.time()),
            "freed_bytes": freed,
            "cleaned_files": len(removed),
        }
    )


def describe(pod: Pod) -> dict[str, Any]:
    """The fields of /admin/model_status for one model."""
    settings, info = pod.settings, pod.runtime.info if pod.runtime else None
    quantization = info.quantization if info else settings.quantization
    family = BY_NAME.get(info.family if info else settings.family)
    return {
        "model": settings.name,
        "type": family.model_type if family else None,
        "path": str(pod.folder),
        "path_exists": pod.folder.exists(),
        "quant_bits": _BITS.get(quantization),
        "max_memory": msgspec.json.decode(settings.max_memory) if settings.max_memory else None,
        "state": pod.progress.phase,
        "modalities": list(info.modalities) if info else None,
        "architecture": info.architecture if info else None,
        "precision": info.precision if info else None,
        "quantization": quantization,
        "quantization_reason": info.quantization_reason if info else "",
        "device": info.device if info else None,
        "context_tokens": info.context_tokens if info else None,
    }


def describe_folder(folder: TempFolder) -> dict[str, Any]:
    """The fields of /admin/temp_status. `folder_id` tells the gateway which pods share a folder."""
    files = folder.files()
    return {
        "temp_directory_exists": folder.path.is_dir(),
        "temp_directory": str(folder.path),
        "total_files": len(files),
        "total_size_mb": _mb(sum(file.bytes for file in files)),
        "files": [_file(file, time.time()) for file in files],
        "folder_id": folder.identity(),
    }


def _file(file: TempFile, now: float) -> dict[str, Any]:
    age = max(0.0, now - file.modified)
    return {
        "filename": file.path.name,
        "size_bytes": file.bytes,
        "size_mb": _mb(file.bytes),
        "age_minutes": round(age / 60, 2),
        "age_hours": round(age / 3600, 2),
        "path": str(file.path),
    }


def _tidy(folder: TempFolder) -> Sequence[TempFile]:
    gc.collect()
    trim_heap()
    return folder.clean()


def _freed_bytes(before: dict[str, Any], after: dict[str, Any]) -> int:
    """How much less this process holds, on its GPU and in memory."""
    names = ("process_gb", "gpu_reserved_gb")
    freed = sum(max(0.0, float(before.get(name) or 0) - float(after.get(name) or 0)) for name in names)
    return int(freed * _GIB)


def _mb(size: int) -> float:
    return round(size / _MIB, 2)


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
