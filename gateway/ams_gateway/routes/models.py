"""`GET /v1/models` and `GET /v1/models/{id}`: OpenAI's list of models."""

from aiohttp import web
from ams_common.wire import ModelCard, ModelList

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.registry.port import Model, require_model
from ams_gateway.routes.routing import Services


async def list_models(services: Services, call: Call) -> web.Response:
    return json_response(call.request, ModelList(data=[_card(model) for model in services.registry.models()]))


async def get_model(services: Services, call: Call) -> web.Response:
    return json_response(call.request, _card(require_model(services.registry, call.name)))


def _card(model: Model) -> ModelCard:
    return ModelCard(id=model.name, created=model.created)
