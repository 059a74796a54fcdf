"""The older server's admin routes, over all pods: asked at once, two seconds each, with who didn't answer."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from aiohttp import web
from ams_common.names import route_name

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.proxy.pod_client import PodClient, PodUnavailable
from ams_gateway.registry.port import Backend, Model, Registry
from ams_gateway.routes.routing import Services
from ams_gateway.routes.totals import outcome, total_cleaned, total_files, total_memory


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the pods said, each with its `model` and `pod`, and who said nothing."""

    pods: list[dict[str, Any]]
    unreachable: list[dict[str, str]]


async def memory_status(services: Services, call: Call) -> web.Response:
    """Sums over all GPUs; warning and safety hold for the worst of them."""
    said = await _ask_all(services, "GET", "/admin/memory_status")
    return _answer(call, {"timestamp": int(time.time()), **total_memory(said.pods)}, said)


async def temp_status(services: Services, call: Call) -> web.Response:
    """The files of all pods; a folder that several share counts once."""
    said = await _ask_all(services, "GET", "/admin/temp_status")
    pods = [{name: value for name, value in pod.items() if name != "files"} for pod in said.pods]
    return _answer(call, total_files(said.pods), _Answers(pods, said.unreachable))


async def cleanup_temp(services: Services, call: Call) -> web.Response:
    said = await _ask_all(services, "POST", "/admin/cleanup_temp")
    return _answer(call, total_cleaned(said.pods, len(said.unreachable)), said)


async def emergency_cleanup(services: Services, call: Call) -> web.Response:
    """Have every pod give back what no running request needs."""
    said = await _ask_all(services, "POST", "/admin/emergency_cleanup")
    status, message = outcome(said.pods, len(said.unreachable))
    return _answer(call, {"status": status, "message": message, "timestamp": int(time.time())}, said)


async def model_status(services: Services, call: Call) -> web.Response:
    """What the registry knows of each model, and what its pods say themselves where they run."""
    said = await _ask_all(services, "GET", "/admin/model_status")
    models = services.registry.models()
    fields = {
        "timestamp": int(time.time()),
        "available_models": [route_name(model.name) for model in models],
        "model_configs": {
            route_name(model.name): _configuration(
                services.registry, model, [pod for pod in said.pods if pod["model"] == model.name]
            )
            for model in models
        },
    }
    return json_response(call.request, fields | {"unreachable": said.unreachable})


def _configuration(registry: Registry, model: Model, pods: list[dict[str, Any]]) -> dict[str, Any]:
    """What the registry's owner knows of a model; a pod that runs knows better."""
    progress = registry.progress(model)
    ready = len(registry.backends(model))
    facts = model.facts
    known = pods[0] if pods else {}
    return {
        "type": known.get("type") or facts.model_type,
        "path": known.get("path") or facts.source,
        "path_exists": ready > 0 or facts.source_exists,
        "quant_bits": known.get("quant_bits", facts.quantization_bits),
        "max_memory": known.get("max_memory") or facts.max_memory,
        "state": progress.phase,
        "replicas": max(ready, facts.replicas),
        "ready_replicas": ready,
        "message": progress.failure.message if progress.failure else progress.message,
        "modalities": known.get("modalities") or (sorted(model.modalities) if model.modalities is not None else None),
        "download": progress.download,
        "pods": pods,
    }


async def _ask_all(services: Services, method: Literal["GET", "POST"], path: str) -> _Answers:
    asked = [(model, backend) for model in services.registry.models() for backend in services.registry.backends(model)]
    answers = await asyncio.gather(*(_ask(services, backend, method, path) for _, backend in asked))
    said = _Answers([], [])
    for (model, backend), answer in zip(asked, answers, strict=True):
        if answer is None:
            said.unreachable.append({"model": model.name, "pod": backend.id})
        else:
            said.pods.append(answer | {"model": model.name, "pod": backend.id})
    return said


async def _ask(
    services: Services, backend: Backend, method: Literal["GET", "POST"], path: str
) -> dict[str, Any] | None:
    client = PodClient(services.pools.of(backend))
    ask = client.get_json if method == "GET" else client.post_json
    try:
        return await ask(path, dict[str, Any])
    except PodUnavailable:
        return None


def _answer(call: Call, fields: dict[str, Any], said: _Answers) -> web.Response:
    return json_response(call.request, fields | {"pods": said.pods, "unreachable": said.unreachable})
