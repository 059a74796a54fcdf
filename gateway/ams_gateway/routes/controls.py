"""Starting and stopping models by hand, and the log of their start-up, where the server runs them itself."""

from typing import Literal

from aiohttp import web
from ams_common.admin import ModelAction
from ams_common.errors import ApiError
from ams_common.names import child_name
from ams_common.progress import Progress

from ams_gateway.front.body import check_asked_first
from ams_gateway.front.call import Call
from ams_gateway.front.responses import compress_if_accepted, json_response
from ams_gateway.registry.port import Controls, Model
from ams_gateway.routes.routing import Services
from ams_gateway.routes.serving import allowed_model

# What is to be done on a cluster instead: a sentence, and the command for it.
_ON_A_CLUSTER = {
    "start": (
        "Its first request starts a model that is at zero. This ends a suspension",
        'kubectl patch mdep {name} -n {namespace} --type=merge -p \'{{"spec":{{"suspend":false}}}}\'',
    ),
    "stop": (
        "The operator stops a model that is idle. This suspends it",
        'kubectl patch mdep {name} -n {namespace} --type=merge -p \'{{"spec":{{"suspend":true}}}}\'',
    ),
    "logs": (
        "The cluster keeps the log of the model's pods",
        "kubectl logs deployment/{deployment} -n {namespace} --all-containers --tail=500",
    ),
}
Wish = Literal["start", "stop", "logs"]


async def start_model(services: Services, call: Call) -> web.Response:
    check_asked_first(call.request)
    model, controls = _controlled(services, call, "start")
    return _answer(call, model, controls.start(model))


async def stop_model(services: Services, call: Call) -> web.Response:
    check_asked_first(call.request)
    model, controls = _controlled(services, call, "stop")
    return _answer(call, model, controls.stop(model))


async def get_log(services: Services, call: Call) -> web.Response:
    model, controls = _controlled(services, call, "logs")
    body = (await controls.log(model)).encode()
    headers = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
    response = web.Response(body=body, content_type="text/plain", charset="utf-8", headers=headers)
    compress_if_accepted(response, call.request, body)
    return response


def _controlled(services: Services, call: Call, wish: Wish) -> tuple[Model, Controls]:
    """The model that is named, and who does what is wished. ApiError `not_controllable` says who else does."""
    model, _ = allowed_model(services.registry, call.principal.policy, call.name)
    controls = services.registry.controls
    if controls is None:
        raise _not_here(services, model, wish)
    call.record.model = model.name
    return model, controls


def _not_here(services: Services, model: Model, wish: Wish) -> ApiError:
    if services.registry.where != "cluster":
        text = "This gateway was only given the addresses of the model's pods: ask whoever started them."
        return ApiError("not_controllable", text, model=model.name)
    namespace, _, name = model.key.partition("/")
    sentence, command = _ON_A_CLUSTER[wish]
    command = command.format(name=name, namespace=namespace, deployment=child_name(name))
    return ApiError("not_controllable", f"{sentence}: {command}", model=model.name, command=command)


def _answer(call: Call, model: Model, progress: Progress) -> web.Response:
    action = ModelAction(model=model.name, state=progress.phase, message=progress.message)
    return json_response(call.request, action)
