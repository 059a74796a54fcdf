"""`POST /generate/{model}`, the older server's route: the path names the model, the body goes to the pod as it came."""

from dataclasses import replace

from aiohttp import web
from ams_common.outline import Outline

from ams_gateway.front.body import Body, WholeBody, check_json, read_head, spooled
from ams_gateway.front.call import Call
from ams_gateway.registry.port import Model
from ams_gateway.routes.asked import asked_on_generate
from ams_gateway.routes.cold import wants_stream
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import model_for, serve


async def generate_text(services: Services, call: Call) -> web.StreamResponse:
    model = model_for(services, call, call.name)
    check_json(call.request)
    limits = services.limits
    if model.max_body_bytes < limits.max_bytes:
        limits = replace(limits, max_bytes=model.max_body_bytes)
    head = await read_head(call.request, limits)
    if head.whole:
        return await _forward(services, call, model, WholeBody(bytes(head.data)))
    async with spooled(call.request, head, limits, Outline(keep=True)) as body:
        return await _forward(services, call, model, body)


async def _forward(services: Services, call: Call, model: Model, body: Body) -> web.StreamResponse:
    target = "/generate"
    return await serve(services, call, model, target, body, wants_stream(target, body), asked_on_generate)
