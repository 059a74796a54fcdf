"""`POST /generate/{model}`, the older server's route: its body streams through to the pod."""

import re
from collections.abc import Callable

import msgspec
from aiohttp import web
from ams_common.parsing import decode_body
from ams_common.wire import GenerateRequest

from ams_gateway.front.body import Limits, StreamedBody, WholeBody, check_json, read_head
from ams_gateway.front.call import Call
from ams_gateway.proxy.forward import Forwarder
from ams_gateway.registry.port import Registry
from ams_gateway.routes.models import find_model
from ams_gateway.settings import GatewaySettings

_REQUEST = msgspec.json.Decoder(GenerateRequest)
_STREAM_FIELD = re.compile(rb'(?<!\\)"stream"\s*:\s*true')


class Generate:
    def __init__(self, registry: Registry, forwarder: Forwarder, settings: GatewaySettings) -> None:
        self._registry = registry
        self._forwarder = forwarder
        self._settings = settings

    async def post(self, call: Call) -> web.StreamResponse:
        model = find_model(self._registry, call.name)
        call.record.model = model.name
        check_json(call.request)
        settings = self._settings
        limits = Limits(min(model.max_body_bytes, settings.max_body_bytes), settings.body_timeout_seconds)
        data, whole = await read_head(call.request, limits)
        body = WholeBody(data) if whole else StreamedBody(data, call.request, limits)
        return await self._forwarder.forward(call, model, "/generate", body, _stream_wish(data, whole))


def _stream_wish(data: bytes, whole: bool) -> Callable[[], bool]:
    """Whether a body asks for a stream, asked only for cold models: a wrong body must not wake one.

    Of a body that isn't here completely the first MiB tells.
    """
    if whole:
        return lambda: decode_body(_REQUEST, data).stream is True
    return lambda: _STREAM_FIELD.search(data) is not None
