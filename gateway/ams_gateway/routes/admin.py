"""The older server's admin routes, over all pods: asked at once, two seconds each, with who didn't answer."""

import asyncio
import time
from typing import TypeVar

import msgspec
from aiohttp import web
from ams_common.admin import (
    ModelConfig,
    ModelStatuses,
    PodCleaned,
    PodCleanup,
    PodMemory,
    PodModel,
    PodTemp,
    UnreachablePod,
)
from ams_common.names import route_name

from ams_gateway.front.body import check_asked_first
from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.proxy.pod_client import Method, PodClient, PodUnavailable
from ams_gateway.registry.port import Backend, Model
from ams_gateway.routes import totals
from ams_gateway.routes.routing import Services

PodReport = TypeVar("PodReport", PodMemory, PodModel, PodTemp, PodCleaned, PodCleanup)


async def get_memory_status(services: Services, call: Call) -> web.Response:
    reports, unreachable = await _ask_all(services, "GET", "/admin/memory_status", PodMemory)
    return json_response(call.request, totals.total_memory(reports, unreachable, int(time.time())))


async def get_temp_status(services: Services, call: Call) -> web.Response:
    reports, unreachable = await _ask_all(services, "GET", "/admin/temp_status", PodTemp)
    if not services.settings.admin_paths:
        reports = [_without_folders(report) for report in reports]
    return json_response(call.request, totals.total_temp(reports, unreachable))


async def run_temp_cleanup(services: Services, call: Call) -> web.Response:
    check_asked_first(call.request)
    reports, unreachable = await _ask_all(services, "POST", "/admin/cleanup_temp", PodCleaned)
    return json_response(call.request, totals.total_cleaned(reports, unreachable))


async def run_emergency_cleanup(services: Services, call: Call) -> web.Response:
    check_asked_first(call.request)
    reports, unreachable = await _ask_all(services, "POST", "/admin/emergency_cleanup", PodCleanup)
    return json_response(call.request, totals.total_cleanup(reports, unreachable, int(time.time())))


async def get_model_status(services: Services, call: Call) -> web.Response:
    """What the registry knows of each model, and what its pods report where they run."""
    reports, unreachable = await _ask_all(services, "GET", "/admin/model_status", PodModel)
    models = services.registry.models()
    status = ModelStatuses(
        timestamp=int(time.time()),
        available_models=[route_name(model.name) for model in models],
        model_configs={
            route_name(model.name): _configuration(
                services, model, [report for report in reports if report.model == model.name]
            )
            for model in models
        },
        unreachable=unreachable,
    )
    return json_response(call.request, status)


def _configuration(services: Services, model: Model, pods: list[PodModel]) -> ModelConfig:
    """A pod that runs knows more of its model than the registry's owner."""
    registry = services.registry
    if not services.settings.admin_paths:
        pods = [msgspec.structs.replace(pod, path=_name_of(pod.path)) for pod in pods]
    progress = registry.progress(model)
    ready = len(registry.backends(model))
    facts = model.facts
    source = facts.source if services.settings.admin_paths else _name_of(facts.source)
    pod = pods[0] if pods else PodModel(quant_bits=facts.quantization_bits)
    return ModelConfig(
        type=pod.type or facts.model_type,
        path=pod.path or source,
        path_exists=ready > 0 or facts.source_exists,
        quant_bits=pod.quant_bits,
        max_memory=pod.max_memory or facts.max_memory,
        state=progress.phase,
        replicas=max(ready, facts.replicas),
        engine=facts.engine,
        engine_reason=facts.engine_reason,
        engine_version=facts.engine_version
        or next((each.engine_version for each in pods if each.engine_version), None),
        ready_replicas=ready,
        message=progress.failure.message if progress.failure else progress.message,
        modalities=pod.modalities or (sorted(model.modalities) if model.modalities is not None else None),
        download=progress.download,
        pods=pods,
    )


def _without_folders(report: PodTemp) -> PodTemp:
    files = report.files and [msgspec.structs.replace(file, path=file.filename) for file in report.files]
    return msgspec.structs.replace(report, files=files, temp_directory=_name_of(report.temp_directory) or "")


def _name_of(path: str | None) -> str | None:
    """The last part of a path of this machine; other sources as they are."""
    if path is None or not path.startswith(("/", "file:")):
        return path
    return path.rstrip("/").rpartition("/")[2]


async def _ask_all(
    services: Services, method: Method, path: str, type_: type[PodReport]
) -> tuple[list[PodReport], list[UnreachablePod]]:
    """The reports of all pods, each with its `model` and `pod`, and the pods that gave none."""
    pods = [(model, backend) for model in services.registry.models() for backend in services.registry.backends(model)]
    replies = await asyncio.gather(*(_ask(services, backend, method, path, type_) for _, backend in pods))
    reports, unreachable = [], []
    for (model, backend), reply in zip(pods, replies, strict=True):
        if reply is None:
            unreachable.append(UnreachablePod(model=model.name, pod=backend.id))
        else:
            reports.append(msgspec.structs.replace(reply, model=model.name, pod=backend.id))
    return reports, unreachable


async def _ask(
    services: Services, backend: Backend, method: Method, path: str, type_: type[PodReport]
) -> PodReport | None:
    try:
        return await PodClient(services.pools.of(backend)).fetch_json(method, path, type_)
    except PodUnavailable:
        return None
