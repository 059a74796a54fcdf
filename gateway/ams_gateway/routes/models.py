"""`GET /v1/models` and `GET /v1/models/{id}`: OpenAI's list of models."""

from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import resource_name
from ams_common.wire import ModelCard, ModelList

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.registry.port import Model, Registry


def find_model(registry: Registry, name: str) -> Model:
    """The model of this name or alias; ApiError `model_not_found` lists those there are."""
    if (model := registry.find(name)) is not None:
        return model
    names = [model.name for model in registry.models()]
    there_are = f"There are: {', '.join(names[:50])}." if names else "There are none yet."
    raise ApiError(
        "model_not_found", f"There is no model {resource_name(name)[:100]!r}. {there_are}", param="model", models=names
    )


class Models:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def list(self, call: Call) -> web.Response:
        return json_response(call.request, ModelList(data=[_card(model) for model in self._registry.models()]))

    async def get(self, call: Call) -> web.Response:
        return json_response(call.request, _card(find_model(self._registry, call.name)))


def _card(model: Model) -> ModelCard:
    return ModelCard(id=model.name, created=model.created)
