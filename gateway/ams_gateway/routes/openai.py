"""The routes of OpenAI's API that generate: routed by what the body says, which the pod gets unchanged."""

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.parsing import decode_body
from ams_common.wire import RoutingFields

from ams_gateway.front.body import Body, Limits, WholeBody, check_json, check_size, read_head, spooled
from ams_gateway.front.call import Call
from ams_gateway.front.form import boundary_of, texts_of
from ams_gateway.proxy.forward import Forwarder
from ams_gateway.registry.port import Model, Registry
from ams_gateway.routes.models import find_model
from ams_gateway.settings import GatewaySettings

_ROUTING = msgspec.json.Decoder(RoutingFields)
_FORM_FIELDS = ("model", "stream")
_TRUE = ("true", "1")
_MODALITIES = {"text": "text", "image_url": "image", "video_url": "video", "input_audio": "audio"}


class OpenAI:
    def __init__(self, registry: Registry, forwarder: Forwarder, settings: GatewaySettings) -> None:
        self._registry = registry
        self._forwarder = forwarder
        self._settings = settings
        self._limits = Limits(settings.max_body_bytes, settings.body_timeout_seconds)

    async def post(self, call: Call) -> web.StreamResponse:
        check_json(call.request)
        data, whole = await read_head(call.request, self._limits)
        if whole:
            return await self._forward(call, decode_body(_ROUTING, data), WholeBody(data), len(data))
        async with spooled(call.request, data, self._limits, self._settings.spool_dir) as body:
            del data
            with body.mapped() as view:
                fields = decode_body(_ROUTING, view)
            return await self._forward(call, fields, body, body.length)

    async def _forward(self, call: Call, fields: RoutingFields, body: Body, size: int) -> web.StreamResponse:
        model = find_model(self._registry, fields.model)
        call.record.model = model.name
        check_size(size, model.max_body_bytes)
        check_modalities(model, fields)
        return await self._forwarder.forward(call, model, call.request.raw_path, body, lambda: fields.stream is True)


class Transcriptions:
    """`POST /v1/audio/transcriptions`: routed by the form's `model`; the form goes to the pod as it came."""

    def __init__(self, registry: Registry, forwarder: Forwarder, settings: GatewaySettings) -> None:
        self._registry = registry
        self._forwarder = forwarder
        self._settings = settings
        self._limits = Limits(settings.max_body_bytes, settings.body_timeout_seconds)

    async def post(self, call: Call) -> web.StreamResponse:
        boundary = boundary_of(call.request.headers.get("Content-Type"))
        data, whole = await read_head(call.request, self._limits)
        if whole:
            return await self._forward(call, texts_of(data, boundary, _FORM_FIELDS), WholeBody(data), len(data))
        async with spooled(call.request, data, self._limits, self._settings.spool_dir) as body:
            del data
            with body.pages() as pages:
                texts = await asyncio.to_thread(texts_of, pages, boundary, _FORM_FIELDS)
            return await self._forward(call, texts, body, body.length)

    async def _forward(self, call: Call, texts: Mapping[str, str], body: Body, size: int) -> web.StreamResponse:
        if not (name := texts.get("model", "").strip()):
            raise ApiError("invalid_parameter", "model is required: the model that transcribes.", param="model")
        model = find_model(self._registry, name)
        call.record.model = model.name
        check_size(size, model.max_body_bytes)
        if model.modalities is not None and "audio" not in model.modalities:
            raise _unsupported(model, "audio", "file")
        stream = texts.get("stream", "").strip().lower() in _TRUE
        return await self._forwarder.forward(call, model, call.request.raw_path, body, lambda: stream)


def check_modalities(model: Model, fields: RoutingFields) -> None:
    """Refuse media that the model can't take, before a pod sees them. ApiError `unsupported_modality`."""
    if model.modalities is None:
        return
    for number, message in enumerate(fields.messages):
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            modality = _MODALITIES.get(part.type)
            if modality is not None and modality not in model.modalities:
                raise _unsupported(model, modality, f"messages[{number}].content")


def _unsupported(model: Model, modality: str, param: str) -> ApiError:
    modalities = sorted(model.modalities or ())
    return ApiError(
        "unsupported_modality", f"{model.name} takes {', '.join(modalities)}, not {modality}.",
        param=param, model=model.name, modalities=modalities, given=modality,
    )  # fmt: skip
