"""OpenAI's list of models, of a pod: its one model under each of its names, and its adapters."""

import msgspec
from aiohttp import web
from ams_common.adapters import adapter_id, split_id
from ams_common.errors import ApiError
from ams_common.names import HEADER_ADAPTER, resource_name
from ams_common.wire import ModelCard, ModelList

from ams_pod.serve.keys import POD
from ams_pod.serve.pod import ModelPod


async def models(request: web.Request) -> web.Response:
    return _json(ModelList(data=_cards(request.app[POD])))


async def model(request: web.Request) -> web.Response:
    pod = request.app[POD]
    name = request.match_info["id"]
    cards = _cards(pod)
    found = next((card for card in cards if resource_name(card.id) == resource_name(name)), None)
    if found is None:
        check_model(pod, name)
        found = msgspec.structs.replace(cards[0], id=name)  # a gateway knows more names
    return _json(found)


def check_model(pod: ModelPod, name: str) -> None:
    """ApiError `model_not_found` unless this pod goes by that name."""
    if pod.settings.any_name:
        return
    if resource_name(name) not in map(resource_name, _names(pod)):
        raise ApiError(
            "model_not_found", f"There is no model {name[:100]!r} here; this pod serves {pod.settings.name}.",
            param="model", models=_names(pod),
        )  # fmt: skip


def chosen_adapter(request: web.Request, name: str | None) -> str:
    """The adapter that a request asks for, empty for none; as the gateway in front has found it, else by `name`.

    `name` is the model's in the body, None of a route that has none there. ApiError `model_not_found` unless this pod
    goes by that name; `model_loading` for an adapter that only newer pods of the model have.
    """
    pod = request.app[POD]
    told = request.headers.get(HEADER_ADAPTER)
    if told:
        if told not in pod.adapters:
            raise _not_loaded(pod, told)
        return told
    if name is None:
        return ""
    model, adapter = split_id(name)
    if told is None and adapter and resource_name(name) not in map(resource_name, _names(pod)):
        own = resource_name(model) in map(resource_name, _names(pod))
        found = resource_name(adapter)
        if found in pod.adapters and (own or pod.settings.any_name):
            return found
        if own:
            if any(each.name == found for each in pod.adapter_views or ()):
                raise _not_loaded(pod, found)
            raise ApiError(
                "model_not_found", f"{pod.settings.name} has no adapter {adapter[:100]!r}; there are: "
                f"{', '.join(pod.adapters) or 'none'}.", param="model", models=_all_names(pod),
            )  # fmt: skip
    check_model(pod, name)
    return ""


def _not_loaded(pod: ModelPod, adapter: str) -> ApiError:
    """Of an adapter that the model has, but not this pod; another one may have it."""
    view = next((each for each in pod.adapter_views or () if each.name == adapter), None)
    if view is not None and view.stage == "failed":
        text = f"The adapter {adapter[:100]!r} isn't served: {view.message}"
    elif pod.settings.adapters_state:
        text = f"The adapter {adapter[:100]!r} isn't loaded yet in this pod."
    else:
        text = f"The adapter {adapter[:100]!r} isn't in this pod, but in those that take its place."
    return ApiError("model_loading", text, retry_after=2, adapters=list(pod.adapters))


def _all_names(pod: ModelPod) -> list[str]:
    return [*_names(pod), *(adapter_id(pod.settings.name, each) for each in pod.adapters)]


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
    own = pod.settings.name
    ids = [adapter_id(own, each) for each in pod.adapters]
    adapters = [msgspec.structs.replace(card, id=each, root=each, parent=own) for each in ids]
    return [*(msgspec.structs.replace(card, id=name) for name in _names(pod)), *adapters]


def _json(value: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
