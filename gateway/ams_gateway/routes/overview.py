"""`GET /overview`: the models that a user may use, once as JSON or as a stream of server-sent events."""

import asyncio
import functools
import importlib.metadata
import time

import msgspec
from aiohttp import web
from ams_common.keys import OPEN, Principal, Scope
from ams_common.names import HEADER_REQUEST_ID
from ams_common.wire import Overview, UserOverview

from ams_gateway.auth.authentication import require
from ams_gateway.front.call import Call
from ams_gateway.front.responses import SERVER, json_response
from ams_gateway.overview.reading import for_user
from ams_gateway.routes.routing import Services

_STEP_SECONDS = 1.0
_HEARTBEAT_SECONDS = 15.0
_SLOWEST_CLIENT_SECONDS = 30.0
_HEARTBEAT = b": alive\n\n"
_EVENTS = "text/event-stream"


async def get_overview(services: Services, call: Call) -> web.StreamResponse:
    request = call.request
    if request.method == "GET" and _EVENTS in request.headers.get("Accept", "").lower():
        with services.overviews.watching():
            return await _stream(services, call)
    await services.overviews.loads.fresh()
    response = json_response(request, overview_for(services, call.principal))
    response.headers["Cache-Control"] = "no-store"
    return response


def overview_for(services: Services, principal: Principal) -> Overview:
    """What this user may see now."""
    policy = principal.policy
    admin = policy.may(Scope.ADMIN)
    return Overview(
        time=round(time.time(), 3),
        version=_version(),
        where=services.registry.where,
        user=UserOverview(
            name="" if principal is OPEN else policy.name, scopes=[scope.value for scope in policy.scopes]
        ),
        models=[
            for_user(overview, admin=admin)
            for model, overview in services.overviews.models()
            if policy.may_use((model.name, *model.aliases))
        ],
    )


async def _stream(services: Services, call: Call) -> web.StreamResponse:
    """Events until the client leaves, its key is revoked, or the gateway stops."""
    await services.overviews.loads.fresh()
    call.stream = stream = web.StreamResponse(
        headers={
            "Content-Type": f"{_EVENTS}; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
            "Server": SERVER,
            HEADER_REQUEST_ID: call.record.id,
            **call.headers,
        }
    )
    await stream.prepare(call.request)
    principal = call.principal
    last, last_sent = b"", 0.0
    while not services.draining:
        services.overviews.loads.touch()
        overview = overview_for(services, principal)
        said = msgspec.json.encode(msgspec.structs.replace(overview, time=0.0))
        now = time.monotonic()
        if said != last:
            await _write(call, stream, b"event: overview\ndata: " + msgspec.json.encode(overview) + b"\n\n")
            last, last_sent = said, now
        elif now - last_sent >= _HEARTBEAT_SECONDS:
            await _write(call, stream, _HEARTBEAT)
            last_sent = now
        await asyncio.sleep(_STEP_SECONDS)
        principal = await services.authentication.identify(call.request.headers)
        require(principal, Scope.GENERATE)
    return stream


@functools.cache
def _version() -> str:
    return importlib.metadata.version("ai-model-server")


async def _write(call: Call, stream: web.StreamResponse, data: bytes) -> None:
    """A client that reads nothing is let go: it would hold one of the watchers' places for ever."""
    try:
        async with asyncio.timeout(_SLOWEST_CLIENT_SECONDS):
            await stream.write(data)
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
            await asyncio.sleep(_STEP_SECONDS)  # the connection's end cancels this request, as when a client leaves
        raise ConnectionResetError("the client reads nothing") from None
