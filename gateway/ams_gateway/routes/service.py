"""What the gateway says of itself: health, readiness and the OpenAPI document."""

import functools
import importlib.metadata
import platform
import time

from aiohttp import web
from ams_common.wire import HealthResponse, ModelCounts, ReadyResponse

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.routes.routing import Services


async def get_health(services: Services, call: Call) -> web.Response:
    """The gateway is alive as long as it answers; models are only counted."""
    models = services.registry.models()
    ready = sum(1 for model in models if services.registry.backends(model))
    response = HealthResponse(
        timestamp=int(time.time()),
        available_endpoints=sorted({route.path for route in services.routes}),
        dependencies=_dependencies(),
        models=ModelCounts(total=len(models), ready=ready),
    )
    return json_response(call.request, response)


async def get_ready(services: Services, call: Call) -> web.Response:
    if not services.authentication.is_loaded:
        return json_response(call.request, ReadyResponse(status="loading-keys"), status=503)
    if services.draining:
        return json_response(call.request, ReadyResponse(status="draining"), status=503)
    return json_response(call.request, ReadyResponse(status="ready"))


async def get_openapi(services: Services, call: Call) -> web.Response:
    return json_response(call.request, services.openapi_document())


@functools.cache
def _dependencies() -> dict[str, str]:
    names = ("aiohttp", "msgspec", "prometheus-client")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
