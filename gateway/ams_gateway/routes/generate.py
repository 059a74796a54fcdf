"""`POST /generate/{model}`, the older server's route: its body streams through to the pod."""

import re
from collections.abc import Callable

import msgspec
from aiohttp import web
from ams_common.parsing import decode_body
from ams_common.wire import GenerateRequest

from ams_gateway.front.body import BodyLimits, StreamedBody, WholeBody, check_json, read_head
from ams_gateway.front.call import Call
from ams_gateway.registry.port import require_model
from ams_gateway.routes.routing import Services

_REQUEST = msgspec.json.Decoder(GenerateRequest)
_STREAM_FIELD = re.compile(rb'(?<!\\)"stream"\s*:\s*true')


async def generate_text(services: Services, call: Call) -> web.StreamResponse:
    model = require_model(services.registry, call.name)
    call.record.model = model.name
    check_json(call.request)
    limits = BodyLimits(min(model.max_body_bytes, services.limits.max_bytes), services.limits.silence_seconds)
    data, whole = await read_head(call.request, limits)
    body = WholeBody(data) if whole else StreamedBody(data, call.request, limits)
    return await services.forwarder.forward(call, model, "/generate", body, _wants_stream(data, whole))


def _wants_stream(data: bytes, whole: bool) -> Callable[[], bool]:
    """Whether a body asks for a stream, decided only for cold models: a wrong body must not wake one.

    Of a body that isn't here completely the first MiB decides.
    """
    if whole:
        return lambda: decode_body(_REQUEST, data).stream is True
    return lambda: _STREAM_FIELD.search(data) is not None
