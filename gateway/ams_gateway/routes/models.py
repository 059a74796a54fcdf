"""OpenAI's list of models: every name that requests may use, and what clients need to know of each model."""

import asyncio
from collections.abc import Sequence

import msgspec
from aiohttp import web
from ams_common.adapters import adapter_id
from ams_common.lifecycle import Phase
from ams_common.names import resource_name
from ams_common.wire import ModelCard, ModelList

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.registry.port import Model, Registry
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import allowed_model, allowed_models

_MODALITIES = ("text", "image", "audio", "video")
_FEATURES = ("constraints", "logprobs", "raw-prompts", "reasoning", "single-question", "tools")


async def list_models(services: Services, call: Call) -> web.Response:
    services.pod_facts.keep_only(services.registry.models())
    models = allowed_models(services.registry, call.principal.policy)
    cards = await asyncio.gather(*(_card(services, model) for model in models))
    own = {resource_name(card.id) for card in cards}
    data = []
    for model, card in zip(models, cards, strict=True):
        adapters = [_of_adapter(card, model, each) for each in model.adapters]
        names = (model.name, *_won(services.registry, model, own | {each.id for each in adapters}))
        data += [*(msgspec.structs.replace(card, id=name) for name in names), *adapters]
    return json_response(call.request, ModelList(data=data))


async def get_model(services: Services, call: Call) -> web.Response:
    model, adapter = allowed_model(services.registry, call.principal.policy, call.name)
    card = await _card(services, model)
    if adapter:
        return json_response(call.request, _of_adapter(card, model, adapter))
    name = next((alias for alias in model.aliases if resource_name(alias) == resource_name(call.name)), model.name)
    return json_response(call.request, msgspec.structs.replace(card, id=name))


def _won(registry: Registry, model: Model, own: set[str]) -> list[str]:
    """Aliases that lead to the model: another one may have the name."""
    found = []
    for alias in model.aliases:
        led_to = registry.find(alias)
        if led_to is not None and led_to.name == model.name and resource_name(alias) not in own:
            found.append(alias)
    return found


async def _card(services: Services, model: Model) -> ModelCard:
    said = await services.pod_facts.of(model)
    modalities = said.modalities if said.modalities is not None else model.modalities
    return ModelCard(
        id=model.name,
        root=model.name,
        created=model.created,
        state=services.registry.progress(model).phase,
        max_model_len=said.max_model_len,
        max_completion_tokens=said.max_completion_tokens,
        modalities=_among(_MODALITIES, modalities),
        features=_among(_FEATURES, said.features),
    )


def _of_adapter(card: ModelCard, model: Model, adapter: str) -> ModelCard:
    """Of an adapter, from the card of its model."""
    name = adapter_id(card.id, adapter)
    state = model.adapter_phases.get(adapter, card.state) if card.state is Phase.READY else card.state
    return msgspec.structs.replace(card, id=name, root=name, parent=card.id, state=state)


def _among(words: Sequence[str], said: "Sequence[str] | frozenset[str] | None") -> list[str] | None:
    """Those that there are, in their order: a pod may say what it likes."""
    return None if said is None else [word for word in words if word in said]
