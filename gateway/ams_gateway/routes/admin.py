"""The older server's admin routes, over all pods: asked at once, two seconds each, with who didn't answer."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from aiohttp import web
from ams_common.names import route_name

from ams_gateway.front.body import WholeBody
from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.proxy.pools import Pools
from ams_gateway.proxy.upstream import Answer, UpstreamError
from ams_gateway.registry.port import Backend, Model, Registry
from ams_gateway.routes.totals import outcome, total_cleaned, total_files, total_memory

_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the pods said, each with its `model` and `pod`, and who said nothing."""

    pods: list[dict[str, Any]]
    unreachable: list[dict[str, str]]


class Admin:
    def __init__(self, registry: Registry, pools: Pools) -> None:
        self._registry = registry
        self._pools = pools

    async def memory_status(self, call: Call) -> web.Response:
        """Sums over all GPUs; warning and safety hold for the worst of them."""
        said = await self._ask_all("GET", "/admin/memory_status")
        return _answer(call, {"timestamp": int(time.time()), **total_memory(said.pods)}, said)

    async def temp_status(self, call: Call) -> web.Response:
        """The files of all pods; a folder that several share counts once."""
        said = await self._ask_all("GET", "/admin/temp_status")
        pods = [{name: value for name, value in pod.items() if name != "files"} for pod in said.pods]
        return _answer(call, total_files(said.pods), _Answers(pods, said.unreachable))

    async def cleanup_temp(self, call: Call) -> web.Response:
        said = await self._ask_all("POST", "/admin/cleanup_temp")
        return _answer(call, total_cleaned(said.pods, len(said.unreachable)), said)

    async def emergency_cleanup(self, call: Call) -> web.Response:
        """Have every pod give back what no running request needs."""
        said = await self._ask_all("POST", "/admin/emergency_cleanup")
        status, message = outcome(said.pods, len(said.unreachable))
        return _answer(call, {"status": status, "message": message, "timestamp": int(time.time())}, said)

    async def model_status(self, call: Call) -> web.Response:
        """What the registry knows of each model, and what its pods say themselves where they run."""
        said = await self._ask_all("GET", "/admin/model_status")
        models = self._registry.models()
        fields = {
            "timestamp": int(time.time()),
            "available_models": [route_name(model.name) for model in models],
            "model_configs": {
                route_name(model.name): self._configuration(
                    model, [pod for pod in said.pods if pod["model"] == model.name]
                )
                for model in models
            },
        }
        return json_response(call.request, fields | {"unreachable": said.unreachable})

    def _configuration(self, model: Model, pods: list[dict[str, Any]]) -> dict[str, Any]:
        """The owner of the registry tells the older fields in the model's labels; a pod that runs knows better."""
        progress = self._registry.progress(model)
        ready = len(self._registry.backends(model))
        labels = model.labels
        known = pods[0] if pods else {}
        bits = labels.get("quant_bits", "")
        return {
            "type": known.get("type") or labels.get("family"),
            "path": known.get("path") or labels.get("path"),
            "path_exists": ready > 0 or labels.get("path_exists") == "true",
            "quant_bits": known["quant_bits"] if "quant_bits" in known else int(bits) if bits.isdigit() else None,
            "max_memory": known.get("max_memory") or _decoded(labels.get("max_memory")),
            "state": progress.phase,
            "replicas": max(ready, int(labels.get("replicas", "0") or 0)),
            "ready_replicas": ready,
            "message": progress.failure.message if progress.failure else progress.message,
            "modalities": known.get("modalities")
            or (sorted(model.modalities) if model.modalities is not None else None),
            "download": progress.download,
            "pods": pods,
        }

    async def _ask_all(self, method: Literal["GET", "POST"], path: str) -> _Answers:
        asked = [(model, backend) for model in self._registry.models() for backend in self._registry.backends(model)]
        answers = await asyncio.gather(*(self._ask(backend, method, path) for _, backend in asked))
        said = _Answers([], [])
        for (model, backend), answer in zip(asked, answers, strict=True):
            if answer is None:
                said.unreachable.append({"model": model.name, "pod": backend.id})
            else:
                said.pods.append(answer | {"model": model.name, "pod": backend.id})
        return said

    async def _ask(self, backend: Backend, method: str, path: str) -> dict[str, Any] | None:
        pool = self._pools.of(backend)
        head = f"{method} {path} HTTP/1.1\r\nHost: {pool.host}\r\nContent-Length: 0\r\n\r\n".encode()
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


def _answer(call: Call, fields: dict[str, Any], said: _Answers) -> web.Response:
    return json_response(call.request, fields | {"pods": said.pods, "unreachable": said.unreachable})


def _decoded(text: str | None) -> Any:
    """JSON as its value, another text as it is."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
