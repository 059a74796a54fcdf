"""`GET /health` with the older server's fields, and `GET /ready` for load balancers."""

import importlib.metadata
import platform
import time
from collections.abc import Callable

from aiohttp import web

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.registry.port import Registry


class Health:
    """The gateway is alive as long as it answers; models are only counted."""

    def __init__(self, registry: Registry, endpoints: Callable[[], list[str]], draining: Callable[[], bool]) -> None:
        self._registry = registry
        self._endpoints = endpoints
        self._draining = draining
        self._dependencies = {"python": platform.python_version()} | {
            name: importlib.metadata.version(name) for name in ("aiohttp", "msgspec", "prometheus-client")
        }

    async def health(self, call: Call) -> web.Response:
        models = self._registry.models()
        ready = sum(1 for model in models if self._registry.backends(model))
        return json_response(
            call.request,
            {
                "status": "healthy",
                "timestamp": int(time.time()),
                "available_endpoints": self._endpoints(),
                "dependencies": self._dependencies,
                "models": {"total": len(models), "ready": ready},
            },
        )

    async def ready(self, call: Call) -> web.Response:
        if self._draining():
            return json_response(call.request, {"status": "draining"}, status=503)
        return json_response(call.request, {"status": "ready"})
