"""What the gateway says of itself: health, readiness, a page with its models and the OpenAPI document."""

import functools
import importlib.metadata
import platform
import time
from html import escape

from aiohttp import web
from ams_common.wire import HealthResponse, ModelCounts, ReadyResponse

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.routes.routing import Services

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>AI Model Server</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #ccc; }}
</style>
<h1>AI Model Server</h1>
<table>
<tr><th>model</th><th>state</th><th>ready</th><th>takes</th></tr>
{rows}
</table>
<p><code>POST /generate/{{model}}</code>, or any OpenAI client against <code>/v1</code>.
<a href="/openapi.json">All routes</a>, <a href="/health">health</a>.</p>
</html>
"""

_LOCKED = "Models are shown to those who have a key: <code>curl -H 'Authorization: Bearer …' /v1/models</code>"


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


async def get_index(services: Services, call: Call) -> web.Response:
    rows = []
    if not services.authentication.is_open:
        rows.append(f'<tr><td colspan="4">{_LOCKED}</td></tr>')
    for model in services.registry.models() if services.authentication.is_open else ():
        takes = ", ".join(sorted(model.modalities)) if model.modalities is not None else "?"
        state = services.registry.progress(model).comment()
        cells = (model.name, state, str(len(services.registry.backends(model))), takes)
        rows.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>")
    return web.Response(
        text=_PAGE.format(rows="\n".join(rows) or '<tr><td colspan="4">none yet</td></tr>'),
        content_type="text/html",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
    )


async def get_openapi(services: Services, call: Call) -> web.Response:
    return json_response(call.request, services.openapi_document())


@functools.cache
def _dependencies() -> dict[str, str]:
    names = ("aiohttp", "msgspec", "prometheus-client")
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in names}
