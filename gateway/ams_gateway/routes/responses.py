"""OpenAI's Responses API: pods answer without a memory, the gateway remembers what a request goes on from."""

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.outline import Outline
from ams_common.parsing import decode_body
from ams_common.wire import ResponsesRoutingFields
from ams_common.wire.responses import DeletedResponse, InputItemList

from ams_gateway.front.body import Body, WholeBody, check_json, check_size, read_head, spooled, with_field
from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.proxy.affinity import conversation_of
from ams_gateway.registry.port import Model
from ams_gateway.responses.kept import as_items, listed
from ams_gateway.responses.memory import NO_CHAIN, Chain, Keeping
from ams_gateway.responses.references import MARK
from ams_gateway.routes.asked import AskedTokens, asked_on_responses
from ams_gateway.routes.cold import wants_stream
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import model_for, serve, unsupported

_ROUTING = msgspec.json.Decoder(ResponsesRoutingFields)
_MODALITIES = {"input_image": "image", "input_file": "image", "input_audio": "audio"}
_MOST_LISTED = 100
_USUALLY_LISTED = 20


class _Given(msgspec.Struct, frozen=True):
    input: msgspec.Raw = msgspec.Raw()


_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_GIVEN = msgspec.json.Decoder(_Given)


async def create_response(services: Services, call: Call) -> web.StreamResponse:
    check_json(call.request)
    head = await read_head(call.request, services.limits)
    if head.whole:
        return await _forward(services, call, decode_body(_ROUTING, head.data), WholeBody(bytes(head.data)))
    async with spooled(call.request, head, services.limits, Outline(keep=True)) as body:
        return await _forward(services, call, decode_body(_ROUTING, body.outline), body)


async def _forward(services: Services, call: Call, fields: ResponsesRoutingFields, body: Body) -> web.StreamResponse:
    model = model_for(services, call, fields.model)
    _check_modalities(model, fields)
    memory, owner = services.responses, call.principal.id
    chain, before = NO_CHAIN, b""
    if fields.previous_response_id is not None:
        chain = await memory.chain(owner, fields.previous_response_id)
        before = chain.items()
    if isinstance(body, WholeBody) and MARK in body.data:
        body = await _with_items(services, owner, body)
    keeping = await _keeping(services, call, body, chain) if fields.store is not False else None
    if before:
        body = with_field(body, b'"previous_items":' + before)
    check_size(body.length, model.max_body_bytes)
    call.recorder = keeping.recorder if keeping is not None else None

    def asks(body: Body, most_new_tokens: int | None) -> AskedTokens:
        return asked_on_responses(fields, len(before), body, most_new_tokens)

    def affinity() -> int | None:
        if isinstance(body, WholeBody):
            return conversation_of(body.data, owner)
        return conversation_of(body.outline, owner)

    wants = wants_stream("/v1/responses", body)
    response = await serve(services, call, model, "/v1/responses", body, wants, asks, affinity, may_be_kept=False)
    if keeping is not None:
        await keeping.share()
    return response


async def _with_items(services: Services, owner: str, body: WholeBody) -> WholeBody:
    """With the items that it names in the place of their names."""
    fields = _FIELDS.decode(body.data)
    fields["input"] = msgspec.Raw(await services.responses.resolve(owner, bytes(fields.get("input", b""))))
    return WholeBody(msgspec.json.encode(fields))


async def _keeping(services: Services, call: Call, body: Body, chain: Chain) -> Keeping | None:
    """None for what is too large to be kept."""
    if body.length > services.responses.largest:
        return None
    if isinstance(body, WholeBody):
        given = bytes(_GIVEN.decode(body.data).input)
    else:
        with body.pages() as pages:
            given = await asyncio.to_thread(lambda: bytes(_GIVEN.decode(pages[:]).input))
    return services.responses.keeping(call.principal.id, as_items(given.strip()), chain)


def _check_modalities(model: Model, fields: ResponsesRoutingFields) -> None:
    """Refuse media that the model can't take, before a pod sees them. ApiError `unsupported_modality`."""
    if model.modalities is None or isinstance(fields.input, str):
        return
    for number, item in enumerate(fields.input):
        for name, content in (("content", item.content), ("output", item.output)):
            for part in content if isinstance(content, list) else ():
                modality = _MODALITIES.get(part.type)
                if modality is not None and modality not in model.modalities:
                    raise unsupported(model, modality, f"input[{number}].{name}")


async def get_response(services: Services, call: Call) -> web.Response:
    kept = await services.responses.find(call.principal.id, call.name)
    return json_response(call.request, bytes(kept.response))


async def delete_response(services: Services, call: Call) -> web.Response:
    await services.responses.delete(call.principal.id, call.name)
    return json_response(call.request, DeletedResponse(id=call.name))


async def list_input_items(services: Services, call: Call) -> web.Response:
    """`?order=asc|desc&limit=N&after=ID`, as OpenAI has it: the newest first, 20 of them."""
    query = dict(parse_qsl(call.request.raw_path.partition("?")[2]))
    kept = await services.responses.find(call.principal.id, call.name)
    chain = await services.responses.chain(call.principal.id, kept.id)
    items = listed(kept, chain.responses[:-1])
    return json_response(call.request, _page(items, query))


def _page(items: list[dict[str, Any]], query: dict[str, str]) -> InputItemList:
    order, limit, after = query.get("order", "desc"), query.get("limit", str(_USUALLY_LISTED)), query.get("after")
    if order not in ("asc", "desc"):
        raise ApiError("invalid_parameter", "order: use asc or desc.", param="order", allowed=["asc", "desc"])
    if not (limit.isascii() and limit.isdigit() and len(limit) < 4 and 1 <= int(limit) <= _MOST_LISTED):
        raise ApiError("invalid_parameter", f"limit: use a number from 1 to {_MOST_LISTED}.", param="limit")
    items = items[::-1] if order == "desc" else items
    if after is not None:
        places = [number for number, item in enumerate(items) if item.get("id") == after]
        items = items[places[0] + 1 :] if places else []
    page = items[: int(limit)]
    return InputItemList(
        data=page,
        first_id=page[0]["id"] if page else None,
        last_id=page[-1]["id"] if page else None,
        has_more=len(page) < len(items),
    )
