"""What a cluster asks about an engine in a container of its own: whether it hangs, and whether it may end."""

import asyncio
import contextlib

import msgspec
from aiohttp import web
from ams_common.timeline import Facts

from ams_pod.engines.port import EngineHealth
from ams_pod.serve.keys import POD

ENGINE_ALIVE_PATH = "/internal/engine/alive"
ENGINE_DRAINED_PATH = "/internal/engine/drained"

_DRAIN_BEGINS_SECONDS = 60.0  # within which this process is told to end too, where the whole pod ends
_LATELY_SECONDS = 3600.0


async def alive(request: web.Request) -> web.Response:
    """200, or 503 with a sentence why the engine is to be ended: the probe of its container.

    With `?start` its container has just begun: what was said of the process before doesn't count any more.
    """
    pod = request.app[POD]
    if "start" in request.query:
        pod.engine_begins()
    complaint = pod.engine_complaint()
    health = pod.engine_health
    body = {
        "status": "alive" if complaint is None else "hung",
        "message": complaint or (health.message if health is not None else pod.progress.comment()),
    }
    return web.Response(
        body=msgspec.json.encode(body), status=200 if complaint is None else 503, content_type="application/json"
    )


async def drained(request: web.Request) -> web.Response:
    """Answers when the engine may end: at once if it hangs or was never ready, else when no request needs it any more.

    It answers after a while in any case, so that a container which ends alone isn't held.
    """
    pod = request.app[POD]
    if pod.engine is not None and pod.engine_complaint() is None:
        patience = _DRAIN_BEGINS_SECONDS + pod.settings.grace_seconds
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await pod.drained.wait()
    return web.Response(body=b"{}", content_type="application/json")


def lately(health: EngineHealth | None, now: float) -> Facts:
    """Of restarts in the last hour before Unix time `now`, for whoever asks why requests failed."""
    if health is None:
        return {}
    recent = [restart for restart in health.restarts if now - restart.at < _LATELY_SECONDS]
    if not recent:
        return {}
    last = recent[-1]
    return {
        "engine_restarts": len(recent),
        "engine_restart_reason": last.reason,
        "engine_restart": last.sentence[:500],
        "engine_restart_seconds_ago": round(now - last.at, 1),
    }
