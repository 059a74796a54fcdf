"""Anthropic's Messages API: routed by what the body says, which the pod gets unchanged."""

import msgspec
from aiohttp import web
from ams_common.outline import Outline
from ams_common.parsing import decode_body
from ams_common.wire import MessagesRoutingFields

from ams_gateway.front.body import Body, WholeBody, check_json, check_size, read_head, spooled
from ams_gateway.front.call import Call
from ams_gateway.proxy.affinity import conversation_of
from ams_gateway.registry.port import Model
from ams_gateway.routes.asked import NOT_COUNTED, AskedTokens, asked_on_messages
from ams_gateway.routes.cold import wants_stream
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import model_for, serve, unsupported

_ROUTING = msgspec.json.Decoder(MessagesRoutingFields)
_COUNT = "/v1/messages/count_tokens"


async def create_message(services: Services, call: Call) -> web.StreamResponse:
    """A message, or the number of a prompt's tokens."""
    check_json(call.request)
    head = await read_head(call.request, services.limits)
    if head.whole:
        return await _forward(services, call, decode_body(_ROUTING, head.data), WholeBody(bytes(head.data)))
    async with spooled(call.request, head, services.limits, Outline(keep=True)) as body:
        return await _forward(services, call, decode_body(_ROUTING, body.outline), body)


async def _forward(services: Services, call: Call, fields: MessagesRoutingFields, body: Body) -> web.StreamResponse:
    model = model_for(services, call, fields.model)
    check_size(body.length, model.max_body_bytes)
    _check_modalities(model, fields)
    counts = call.path == _COUNT

    def asks(body: Body, most_new_tokens: int | None) -> AskedTokens:
        return NOT_COUNTED if counts else asked_on_messages(fields, body, most_new_tokens)

    def affinity() -> int | None:
        return conversation_of(body.data if isinstance(body, WholeBody) else body.outline, call.principal.id)

    # Without the query: Claude Code's ?beta=true is nothing for a pod, and tells no answers apart.
    return await serve(
        services, call, model, call.path, body, wants_stream(call.path, body), asks, affinity, may_be_kept=not counts
    )


def _check_modalities(model: Model, fields: MessagesRoutingFields) -> None:
    """Refuse images that the model can't take, before a pod sees them. ApiError `unsupported_modality`."""
    if model.modalities is None or "image" in model.modalities:
        return
    for number, turn in enumerate(fields.messages):
        for block in turn.content if isinstance(turn.content, list) else ():
            if block.type == "image":
                raise unsupported(model, "image", f"messages[{number}].content")
