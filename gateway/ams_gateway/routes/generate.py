"""`POST /generate/{model}`, the older server's route: the path names the model, the body goes to the pod as it came."""

from collections.abc import Callable
from dataclasses import replace

from aiohttp import web
from ams_common.outline import Outline
from ams_common.request_body import RequestReader
from ams_common.wire import GenerateRequest

from ams_gateway.front.body import WholeBody, check_json, read_head, spooled
from ams_gateway.front.call import Call
from ams_gateway.routes.asked import asked_on_generate
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import model_for, serve

_READER = RequestReader(GenerateRequest)


async def generate_text(services: Services, call: Call) -> web.StreamResponse:
    model = model_for(services, call, call.name)
    check_json(call.request)
    limits = services.limits
    if model.max_body_bytes < limits.max_bytes:
        limits = replace(limits, max_bytes=model.max_body_bytes)
    head = await read_head(call.request, limits)
    if head.whole:
        body = WholeBody(bytes(head.data))
        return await serve(services, call, model, "/generate", body, _wants_stream(body.data), asked_on_generate)
    async with spooled(call.request, head, limits, Outline(keep=True)) as large:
        return await serve(services, call, model, "/generate", large, _wants_stream(large.outline), asked_on_generate)


def _wants_stream(data: bytes) -> Callable[[], bool]:
    """Whether a body asks for a stream, decided only for cold models: a wrong body must not wake one."""
    return lambda: _READER.read(data)[0].stream is True
