"""OpenAI's routes that generate: routed by what the body says, which the pod gets unchanged."""

import asyncio
from collections.abc import Mapping

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.outline import Outline
from ams_common.parsing import decode_body
from ams_common.wire import RoutingFields
from ams_common.wire.presence import no_file

from ams_gateway.front.body import Body, WholeBody, check_json, check_size, read_head, spooled
from ams_gateway.front.call import Call
from ams_gateway.front.form import boundary_of, has_part, texts_of
from ams_gateway.proxy.affinity import conversation_of
from ams_gateway.registry.port import Model
from ams_gateway.routes.asked import NOT_COUNTED, AskedTokens, asked_of_form, asked_of_texts, asked_on_v1
from ams_gateway.routes.cold import wants_stream
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import model_for, serve, unsupported

_ROUTING = msgspec.json.Decoder(RoutingFields)
_FORM_FIELDS = ("model", "stream")
_FILE = "file"
_TRUE = ("true", "1")
_MODALITIES = {
    "text": "text",
    "image_url": "image",
    "file": "image",  # a PDF, as images of its pages
    "video_url": "video",
    "input_audio": "audio",
    "audio_url": "audio",
}


async def create_completion(services: Services, call: Call) -> web.StreamResponse:
    """Chat completions and completions: both name their model in a JSON body."""
    check_json(call.request)
    head = await read_head(call.request, services.limits)
    if head.whole:
        return await _forward_json(services, call, decode_body(_ROUTING, head.data), WholeBody(bytes(head.data)))
    async with spooled(call.request, head, services.limits, Outline(keep=True)) as body:
        return await _forward_json(services, call, decode_body(_ROUTING, body.outline), body)


async def tokenize(services: Services, call: Call) -> web.StreamResponse:
    """Tokens of a text or a chat, and their text: routed as completions are, and nothing is generated."""
    check_json(call.request)
    head = await read_head(call.request, services.limits)
    if head.whole:
        return await _forward_tokens(services, call, decode_body(_ROUTING, head.data), WholeBody(bytes(head.data)))
    async with spooled(call.request, head, services.limits, Outline(keep=True)) as body:
        return await _forward_tokens(services, call, decode_body(_ROUTING, body.outline), body)


async def _forward_tokens(services: Services, call: Call, fields: RoutingFields, body: Body) -> web.StreamResponse:
    model = model_for(services, call, fields.model)
    check_size(body.length, model.max_body_bytes)
    target = call.request.raw_path
    wants = wants_stream(call.path, body)
    return await serve(services, call, model, target, body, wants, lambda body, most: NOT_COUNTED)


async def create_embedding(services: Services, call: Call) -> web.StreamResponse:
    """Embeddings and scores: routed as completions are."""
    check_json(call.request)
    head = await read_head(call.request, services.limits)
    if head.whole:
        return await _forward_texts(services, call, decode_body(_ROUTING, head.data), WholeBody(bytes(head.data)))
    async with spooled(call.request, head, services.limits, Outline(keep=True)) as body:
        return await _forward_texts(services, call, decode_body(_ROUTING, body.outline), body)


async def _forward_texts(services: Services, call: Call, fields: RoutingFields, body: Body) -> web.StreamResponse:
    model = model_for(services, call, fields.model)
    check_size(body.length, model.max_body_bytes)
    wants = wants_stream(call.path, body)
    return await serve(services, call, model, call.request.raw_path, body, wants, asked_of_texts)


async def create_transcription(services: Services, call: Call) -> web.StreamResponse:
    """Routed by the form's `model`; the form goes to the pod as it came."""
    boundary = boundary_of(call.request.headers.get("Content-Type"))
    head = await read_head(call.request, services.limits)
    if head.whole:
        data = bytes(head.data)
        texts, has_file = texts_of(data, boundary, _FORM_FIELDS), has_part(data, boundary, _FILE)
        return await _forward_form(services, call, texts, WholeBody(data), has_file=has_file)
    async with spooled(call.request, head, services.limits, None) as body:
        with body.pages() as pages:
            texts = await asyncio.to_thread(texts_of, pages, boundary, _FORM_FIELDS)
            has_file = await asyncio.to_thread(has_part, pages, boundary, _FILE)
        return await _forward_form(services, call, texts, body, has_file=has_file)


async def _forward_json(services: Services, call: Call, fields: RoutingFields, body: Body) -> web.StreamResponse:
    model = model_for(services, call, fields.model)
    check_size(body.length, model.max_body_bytes)
    _check_modalities(model, fields)
    target = call.request.raw_path

    def asks(body: Body, most_new_tokens: int | None) -> AskedTokens:
        return asked_on_v1(fields, body, most_new_tokens)

    def affinity() -> int | None:
        return conversation_of(body.data if isinstance(body, WholeBody) else body.outline, call.principal.id)

    return await serve(services, call, model, target, body, wants_stream(call.path, body), asks, affinity)


async def _forward_form(
    services: Services, call: Call, texts: Mapping[str, str], body: Body, *, has_file: bool
) -> web.StreamResponse:
    if not (name := texts.get("model", "").strip()):
        raise ApiError("invalid_parameter", "model is required: the model that transcribes.", param="model")
    model = model_for(services, call, name)
    check_size(body.length, model.max_body_bytes)
    if model.modalities is not None and "audio" not in model.modalities:
        raise unsupported(model, "audio", "file")

    def wants() -> bool:
        if not has_file:  # it would wake a model for nothing
            raise no_file()
        return texts.get("stream", "").strip().lower() in _TRUE

    return await serve(services, call, model, call.request.raw_path, body, wants, asked_of_form)


def _check_modalities(model: Model, fields: RoutingFields) -> None:
    """Refuse media that the model can't take, before a pod sees them. ApiError `unsupported_modality`."""
    if model.modalities is None:
        return
    for number, message in enumerate(fields.messages):
        if not isinstance(message.content, list):
            continue
        for part in message.content:
            modality = _MODALITIES.get(part.type)
            if modality is not None and modality not in model.modalities:
                raise unsupported(model, modality, f"messages[{number}].content")
