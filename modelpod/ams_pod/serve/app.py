"""The pod's HTTP application: routes, request ids, and errors in the shape that each route's clients expect."""

import asyncio
import contextlib
import logging
import re
import secrets
import time
from typing import TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_common.names import HEADER_REQUEST_ID, HEADER_USAGE
from ams_common.timeline import TIMELINES_PATH
from ams_common.traceparent import HEADER_TRACE_PARENT, HEADER_TRACE_STATE
from ams_common.undelivered import USAGE_PATH
from ams_common.why.story import PodTimelines

from ams_pod.serve import admin, embeddings, engine, models, native, openai, tokenizing, transcription
from ams_pod.serve.engine import ENGINE_ALIVE_PATH, ENGINE_DRAINED_PATH
from ams_pod.serve.keys import METER, POD, REQUEST_ID, SHARE, TRACK
from ams_pod.serve.messages.route import count_tokens, messages
from ams_pod.serve.pod import ModelPod
from ams_pod.serve.request_meter import share_of
from ams_pod.serve.responses.route import responses

R = TypeVar("R", bound=web.StreamResponse)
log = logging.getLogger(__name__)
_GENERATING = (
    "/generate",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/audio/transcriptions",
)
_LONGEST_WAIT_SECONDS = 30.0
_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # what the gateway passes on


def make_app(pod: ModelPod) -> web.Application:
    app = web.Application(middlewares=[_usage, _errors], client_max_size=0)
    app[POD] = pod
    app.router.add_post("/generate", native.generate)
    app.router.add_post("/v1/chat/completions", openai.chat_completions)
    app.router.add_post("/v1/completions", openai.completions)
    app.router.add_post("/v1/embeddings", embeddings.embeddings)
    app.router.add_post("/v1/rerank", embeddings.rerank)
    app.router.add_post("/tokenize", tokenizing.tokenize)
    app.router.add_post("/detokenize", tokenizing.detokenize)
    app.router.add_post("/v1/responses", responses)
    app.router.add_post("/v1/messages", messages)
    app.router.add_post("/v1/messages/count_tokens", count_tokens)
    app.router.add_get("/v1/models", models.models)
    app.router.add_get("/v1/models/{id:.+}", models.model)
    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/load", load)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/audio/transcriptions", transcription.transcriptions)
    app.router.add_post(USAGE_PATH, undelivered_usage)
    app.router.add_get(TIMELINES_PATH, timelines)
    app.router.add_get(ENGINE_ALIVE_PATH, engine.alive)
    app.router.add_get(ENGINE_DRAINED_PATH, engine.drained)
    app.router.add_get("/admin/memory_status", admin.memory_status)
    app.router.add_get("/admin/model_status", admin.model_status)
    app.router.add_get("/admin/temp_status", admin.temp_status)
    app.router.add_post("/admin/emergency_cleanup", admin.emergency_cleanup)
    app.router.add_post("/admin/cleanup_temp", admin.cleanup_temp)
    return app


async def health(request: web.Request) -> web.Response:
    """200 as long as the event loop answers, also while the model loads; 503 when the engine hangs under requests."""
    pod = request.app[POD]
    if (seconds := pod.stalled_seconds()) is not None:
        return _json({"status": "stalled", "model": pod.settings.name, "stalled_seconds": round(seconds, 1)}, 503)
    return _json({"status": "healthy", "model": pod.settings.name})


async def ready(request: web.Request) -> web.Response:
    """200 once the model answers, 503 with its progress until then.

    `?wait=SECONDS` answers that much later, or as soon as the model is ready or has failed: who asks sees it at once.
    """
    pod = request.app[POD]
    if (seconds := _wait(request.query.get("wait", ""))) > 0:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await pod.settled.wait()
    progress = pod.progress
    return _json(progress, 200 if progress.phase == Phase.READY else 503)


def _wait(text: str) -> float:
    """Seconds within bounds; 0 for anything that is no number of them."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_WAIT_SECONDS) if seconds > 0 else 0.0


async def load(request: web.Request) -> web.Response:
    return _json(request.app[POD].load())


async def metrics(request: web.Request) -> web.Response:
    pod = request.app[POD]
    await pod.volume.look()
    body = pod.metrics.render()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def undelivered_usage(request: web.Request) -> web.Response:
    """What requests used whose answers didn't reach their gateway; it is given away once."""
    kept = request.app[POD].undelivered
    taken = kept.take()
    try:
        return await _sent(request, _json(taken))
    except BaseException:
        kept.put_back(taken)
        raise


async def timelines(request: web.Request) -> web.Response:
    """What requests went through: `?request=ID`, or those that were slow or failed lately."""
    pod = request.app[POD]
    return _json(
        PodTimelines(
            model=pod.settings.name,
            timelines=pod.recent.timelines(request.query.get("request", "")),
            reaches_back_to=pod.recent.reaches_back_to,
            progress=pod.progress,
            load=pod.load(),
            machine={**pod.machine.lately(), **engine.lately(pod.engine_health, time.time())},
        )
    )


@web.middleware
async def _usage(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answers tell what they used, errors too; what nobody was told is kept."""
    pod = request.app[POD]
    track = None
    if request.method == "POST" and request.path in _GENERATING:
        track = request[TRACK] = pod.recent.begin(request.path, pod.settings.name)
        if pod.tracer is not None:
            headers = request.headers
            track.trace = pod.tracer.begin(headers.get(HEADER_TRACE_PARENT), headers.get(HEADER_TRACE_STATE))
    try:
        response = await handler(request)
        if track is not None:
            track.answered(response.status)
        if (meter := request.get(METER)) is not None:
            if not response.prepared:
                if (usage := meter.tell()) is not None:
                    response.headers[HEADER_USAGE] = usage.text()
                await _sent(request, response)
            if request.transport is not None and not request.transport.is_closing():
                meter.delivered()
        return response
    finally:
        if (meter := request.get(METER)) is not None:
            meter.close()
        if track is not None:
            if track.error == "queue_full":
                track.crowded(pod.occupants())
            timeline = pod.recent.end(track)
            if pod.tracer is not None and track.trace is not None:
                pod.tracer.end(timeline, track.trace)


async def _sent(request: web.Request, response: R) -> R:
    """Send it now, to know whether it could be; a client that has left cancels the request."""
    try:
        await response.prepare(request)
        await response.write_eof()
    except ConnectionError:
        raise asyncio.CancelledError from None
    return response


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    sent = request.headers.get(HEADER_REQUEST_ID, "")
    request_id = request[REQUEST_ID] = sent if _SANE_ID.fullmatch(sent) else secrets.token_hex(8)
    request[SHARE] = share_of(request.headers)
    if (track := request.get(TRACK)) is not None:
        track.id, track.key = request_id, request[SHARE].key
    try:
        response = await handler(request)
    except ApiError as error:
        response = _error(request, error, request_id)
    except web.HTTPMethodNotAllowed as refused:
        allowed = sorted(refused.allowed_methods)
        not_allowed = ApiError(
            "method_not_allowed", f"{request.method} is not allowed here; use {' or '.join(allowed)}.",
            headers={"Allow": ", ".join(allowed)}, allowed=allowed,
        )  # fmt: skip
        response = _error(request, not_allowed, request_id)
    except web.HTTPNotFound:
        response = _error(request, ApiError("not_found", f"No such route: {request.path[:200]}."), request_id)
    except web.HTTPException:
        raise
    except Exception:
        log.exception("request %s failed", request_id)
        response = _error(request, ApiError("internal_error", "The server failed on this request."), request_id)
    if not response.prepared:
        response.headers[HEADER_REQUEST_ID] = request_id
    return response


def _error(request: web.Request, error: ApiError, request_id: str) -> web.Response:
    if (track := request.get(TRACK)) is not None:
        track.failed(error)
    response = web.Response(
        status=error.status, body=error.body(request.path, request_id), content_type="application/json",
        headers=error.headers,
    )  # fmt: skip
    if error.headers.get("Connection") == "close":
        response.force_close()
    return response


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
