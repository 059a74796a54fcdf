"""OpenAI's list of models, of a pod: its one model under each of its names."""

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.names import resource_name
from ams_common.wire import ModelCard, ModelList

from ams_pod.serve.keys import POD
from ams_pod.serve.pod import ModelPod


async def models(request: web.Request) -> web.Response:
    return _json(ModelList(data=_cards(request.app[POD])))


async def model(request: web.Request) -> web.Response:
    pod = request.app[POD]
    name = request.match_info["id"]
    check_model(pod, name)
    own, *others = _cards(pod)
    found = (card for card in (own, *others) if resource_name(card.id) == resource_name(name))
    return _json(next(found, msgspec.structs.replace(own, id=name)))  # a gateway knows more names


def check_model(pod: ModelPod, name: str) -> None:
    """ApiError `model_not_found` unless this pod goes by that name."""
    if pod.settings.any_name:
        return
    if resource_name(name) not in map(resource_name, _names(pod)):
        raise ApiError(
            "model_not_found", f"There is no model {name[:100]!r} here; this pod serves {pod.settings.name}.",
            param="model", models=_names(pod),
        )  # fmt: skip


def _names(pod: ModelPod) -> list[str]:
    return [pod.settings.name, *(alias.strip() for alias in pod.settings.aliases.split(",") if alias.strip())]


def _cards(pod: ModelPod) -> list[ModelCard]:
    card = ModelCard(id=pod.settings.name, root=pod.settings.name, created=pod.started, state=pod.progress.phase)
    if (engine := pod.engine) is not None:
        context = engine.info.context_tokens
        card = msgspec.structs.replace(
            card,
            max_model_len=context,
            max_completion_tokens=min(pod.settings.max_new_tokens or context, context),
            modalities=list(engine.capabilities.modalities),
            features=sorted(engine.capabilities.features),
        )
    return [msgspec.structs.replace(card, id=name) for name in _names(pod)]


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
