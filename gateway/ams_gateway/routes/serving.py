"""What every route that generates has in common: may this user use this model, and as much as they ask for."""

import time
from collections.abc import Callable, Sequence

from aiohttp import web
from ams_common.adapters import adapter_id, split_id
from ams_common.errors import ApiError
from ams_common.keys import Policy
from ams_common.names import HEADER_ANSWER_CACHE, HEADER_MODEL, HEADER_REQUEST_ID, resource_name
from ams_common.printable import printable
from ams_common.request_usage import parse_usage
from ams_common.timeline import Facts
from multidict import CIMultiDict, CIMultiDictProxy

from ams_gateway.answers.kept import KeptAnswer
from ams_gateway.front.body import Body
from ams_gateway.front.call import WORTH_A_NOTE_SECONDS, Call
from ams_gateway.front.responses import SERVER, compress_if_accepted
from ams_gateway.proxy.affinity import Affinity
from ams_gateway.proxy.headers import response_headers
from ams_gateway.registry.port import Model, Registry, require_model
from ams_gateway.routes.asked import NOT_COUNTED, AskedTokens
from ams_gateway.routes.routing import Services

_NAMES_IN_A_SENTENCE = 50
_IN_REDIS: Facts = {"store": "of Redis"}


def model_for(services: Services, call: Call, name: str) -> Model:
    """The model of this name or alias, for the user of this call; names it, and an adapter of it, in the call.

    ApiError `model_not_found`, or `model_not_allowed` for what the user may not use, whether it exists or not.
    """
    model, adapter = allowed_model(services.registry, call.principal.policy, name)
    call.record.model, call.adapter = model.name, adapter if model.adapters else None
    return model


def allowed_model(registry: Registry, policy: Policy, name: str) -> tuple[Model, str]:
    """(the model, the adapter of it that the name asks for, empty for none). Whoever may use a model may use its
    adapters. ApiError as of `model_for`."""
    asked, adapter = name, ""
    model_name, last = split_id(name)
    owner = registry.find(model_name) if last else None
    if owner is not None and resource_name(last) in owner.adapters:
        asked, adapter = model_name, resource_name(last)
    elif owner is not None and registry.find(name) is None:
        asked = model_name
    model = _allowed(registry, policy, asked)
    if asked != name and not adapter:
        names = [model.name, *(adapter_id(model.name, each) for each in model.adapters)]
        has = ", ".join(names[1 : _NAMES_IN_A_SENTENCE + 1]) or "none"
        raise ApiError(
            "model_not_found", f"{model.name} has no adapter {printable(last, 100)}. Adapters: {has}.",
            param="model", models=names,
        )  # fmt: skip
    return model, adapter


def _allowed(registry: Registry, policy: Policy, name: str) -> Model:
    if "*" in policy.models:
        return require_model(registry, name)
    model = registry.find(name)
    if not policy.may_use((name,) if model is None else (name, model.name, *model.aliases)):
        names = [each.name for each in allowed_models(registry, policy)]
        may = (
            f"It may use: {', '.join(names[:_NAMES_IN_A_SENTENCE])}." if names else "It may use none that is deployed."
        )
        raise ApiError(
            "model_not_allowed", f"The key {policy.name} may not use {printable(resource_name(name), 100)}. {may}",
            param="model", models=names,
        )  # fmt: skip
    if model is None:
        names = [each.name for each in allowed_models(registry, policy)]
        listed = f"Models: {', '.join(names[:_NAMES_IN_A_SENTENCE])}." if names else "No model is deployed yet."
        raise ApiError(
            "model_not_found", f"No such model: {resource_name(name)[:100]}. {listed}", param="model", models=names
        )
    return model


def allowed_models(registry: Registry, policy: Policy) -> Sequence[Model]:
    """All models that a user may use, sorted by name."""
    models = registry.models()
    if "*" in policy.models:
        return models
    return [model for model in models if policy.may_use((model.name, *model.aliases))]


def unsupported(model: Model, modality: str, param: str) -> ApiError:
    """The model doesn't take what is at `param`."""
    modalities = sorted(model.modalities or ())
    return ApiError(
        "unsupported_modality", f"{model.name} takes {', '.join(modalities)}, not {modality}.",
        param=param, model=model.name, modalities=modalities, given=modality,
    )  # fmt: skip


async def serve(
    services: Services,
    call: Call,
    model: Model,
    target: str,
    body: Body,
    wants_stream: Callable[[], bool],
    asks: Callable[[Body, int | None], AskedTokens],
    affinity: Affinity = lambda: None,
    *,
    may_be_kept: bool = True,
) -> web.StreamResponse:
    """Let the request in if the user's limits allow it, and answer it; settle what it used. Raises ApiError.

    `asks` tells what a body asks for, given the model's own limit; only of users whose tokens are limited. `affinity`
    tells its conversation. Without `may_be_kept` the answer is no other's, whatever the model says.
    """
    policy = call.principal.policy
    if call.trace is not None or time.perf_counter() - (call.noted or call.started) > WORTH_A_NOTE_SECONDS:
        call.note("body", "choose", {"body_bytes": body.length})
    if not policy.limited:
        call.admitted = True
        return await _answer(services, call, model, target, body, wants_stream, affinity, may_be_kept)
    counts_tokens = policy.tokens_per_minute is not None or policy.monthly_tokens is not None
    asked = asks(body, model.max_new_tokens) if counts_tokens else NOT_COUNTED
    call.doing = "limits"
    try:
        admission = await services.limiter.admit(policy, asked.total)
    finally:
        call.note("limits", "choose", _IN_REDIS if services.settings.redis_url else None)
    call.admitted = True
    call.add_headers(admission.headers)
    code = 0
    try:
        response = await _answer(services, call, model, target, body, wants_stream, affinity, may_be_kept)
        code = response.status
        return response
    except ApiError as error:
        code = error.status
        raise
    finally:
        admission.settle(_used(call, code, asked))


async def _answer(
    services: Services,
    call: Call,
    model: Model,
    target: str,
    body: Body,
    wants_stream: Callable[[], bool],
    affinity: Affinity,
    may_be_kept: bool,
) -> web.StreamResponse:
    """From the answers that are kept, or by a pod."""
    if model.answers is None or not may_be_kept:
        return await services.forwarder.forward(call, model, target, body, wants_stream, affinity)
    cache = services.answers
    asked = cache.ask(model, call.principal.id, adapter_id(target, call.adapter or ""), body)
    if asked is None:
        return await services.forwarder.forward(call, model, target, body, wants_stream, affinity)
    found = await cache.find(asked, services.registry.backends(model))
    call.record.answer_cache = "miss" if found is None else "hit"
    call.add_headers({HEADER_ANSWER_CACHE: call.record.answer_cache})
    if found is not None:
        return await _answer_again(call, model, found)
    call.recorder = recorder = cache.recorder(asked)
    response = await services.forwarder.forward(call, model, target, body, wants_stream, affinity)
    await cache.keep(asked, recorder, call.record.usage().text())
    return response


async def _answer_again(call: Call, model: Model, answer: KeptAnswer) -> web.StreamResponse:
    record = call.record
    call.doing = "kept"
    record.first_byte_seconds = time.perf_counter() - call.started
    if (usage := parse_usage(answer.usage.encode())) is not None:
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.media = usage.media
    # As of a pod's answer: what lies in Redis may be anybody's.
    headers = response_headers(CIMultiDictProxy(CIMultiDict(answer.headers)))
    headers.update({**call.headers, HEADER_MODEL: model.name, HEADER_REQUEST_ID: record.id, "Server": SERVER})
    if not answer.stream:
        response = web.Response(body=answer.body, headers=headers)
        compress_if_accepted(response, call.request, answer.body)
        return response
    headers.update({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    call.stream = stream = web.StreamResponse(headers=headers)
    await stream.prepare(call.request)
    await stream.write(answer.body)
    return stream


def _used(call: Call, code: int, asked: AskedTokens) -> int | None:
    """Tokens that a request used, as far as its pod told; None if no pod worked on it. `code` is 0 where nobody waited.

    An answer that was cut off ends before its usage is told: then its events are counted, of a token at least each, and
    the prompt as it was estimated.
    """
    record = call.record
    if record.answer_cache == "hit":
        return 0
    if record.completion_tokens is not None:
        return (record.prompt_tokens or 0) + record.completion_tokens
    if not record.pod or code == 503 or 400 <= code < 500:
        return None
    return asked.prompt + min(call.events, asked.answer)
