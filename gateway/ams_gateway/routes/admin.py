"""The older server's admin routes, over all pods: asked at once, two seconds each, with who didn't answer."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import msgspec
from aiohttp import web
from ams_common.names import route_name

from ams_gateway.body import WholeBody
from ams_gateway.call import Call
from ams_gateway.pools import Pools
from ams_gateway.registry import Backend, Model, Registry
from ams_gateway.responses import json_response
from ams_gateway.upstream import Answer, UpstreamError

_ANSWER_SECONDS = 2.0
_SUMMED = ("gpu_total_gb", "gpu_allocated_gb", "gpu_reserved_gb", "gpu_free_gb")


class Admin:
    def __init__(self, registry: Registry, pools: Pools) -> None:
        self._registry = registry
        self._pools = pools

    async def memory_status(self, call: Call) -> web.Response:
        """Sums over all GPUs; warning and safety hold for the worst of them."""
        pods, unreachable = await self._ask_all("/admin/memory_status")
        return json_response(
            call.request,
            {"timestamp": int(time.time()), **total_memory(pods), "pods": pods, "unreachable": unreachable},
        )

    async def model_status(self, call: Call) -> web.Response:
        models = self._registry.models()
        return json_response(
            call.request,
            {
                "timestamp": int(time.time()),
                "available_models": [route_name(model.name) for model in models],
                "model_configs": {route_name(model.name): self._configuration(model) for model in models},
            },
        )

    def _configuration(self, model: Model) -> dict[str, Any]:
        """What is known of one model; the owner of the registry tells the older fields in the model's labels."""
        progress = self._registry.progress(model)
        ready = len(self._registry.backends(model))
        bits = model.labels.get("quant_bits", "")
        return {
            "type": model.labels.get("family"),
            "path": model.labels.get("path"),
            "path_exists": ready > 0 or model.labels.get("path_exists") == "true",
            "quant_bits": int(bits) if bits.isdigit() else None,
            "max_memory": model.labels.get("max_memory"),
            "state": progress.phase,
            "replicas": max(ready, int(model.labels.get("replicas", "0") or 0)),
            "ready_replicas": ready,
            "message": progress.failure.message if progress.failure else progress.message,
            "modalities": sorted(model.modalities) if model.modalities is not None else None,
            "download": progress.download,
        }

    async def _ask_all(self, path: str) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
        asked = [(model, backend) for model in self._registry.models() for backend in self._registry.backends(model)]
        answers = await asyncio.gather(*(self._ask(backend, path) for _, backend in asked))
        pods, unreachable = [], []
        for (model, backend), answer in zip(asked, answers, strict=True):
            if answer is None:
                unreachable.append({"model": model.name, "pod": backend.id})
            else:
                pods.append({"model": model.name, "pod": backend.id, **answer})
        return pods, unreachable

    async def _ask(self, backend: Backend, path: str) -> dict[str, Any] | None:
        pool = self._pools.of(backend)
        head = f"GET {path} HTTP/1.1\r\nHost: {pool.host}\r\n\r\n".encode()
        answer: Answer | None = None
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer = await pool.send(head, WholeBody(b""), fresh=True)
                if answer.message.code != 200:
                    return None
                return msgspec.json.decode(await answer.read(), type=dict[str, Any])
        except (UpstreamError, TimeoutError, msgspec.DecodeError):
            return None
        finally:
            if answer is not None:
                answer.close()


def total_memory(pods: list[dict[str, Any]]) -> Mapping[str, Any]:
    """The older server's fields of all pods together: GPU fields only when some pod has a GPU."""
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


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
