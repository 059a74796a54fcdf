"""GET /metrics, /health and /ready of the operator itself, and what it decided about a model."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from aiohttp import web
from ams_common.why.story import DECISIONS_PATH, OperatorDecisions

from ams_operator.metrics import Metrics

_LONGEST_KEY = 400


@asynccontextmanager
async def serve_monitoring(
    host: str,
    port: int,
    metrics: Metrics,
    unready: Callable[[], str | None],
    unhealthy: Callable[[], str | None],
    decisions: Callable[[str], OperatorDecisions] = OperatorDecisions,
) -> AsyncIterator[int]:
    """Listen while inside; gives the port.

    `unready` tells why this one couldn't lead, as it doesn't see the cluster; `unhealthy` why only a new start helps.
    `decisions` are those about a model, `namespace/name`.
    """

    async def get_metrics(request: web.Request) -> web.Response:
        headers = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=metrics.render(), headers=headers)

    async def get_health(request: web.Request) -> web.Response:
        return _answer("healthy", unhealthy())

    async def get_ready(request: web.Request) -> web.Response:
        return _answer("ready", unready())

    async def get_decisions(request: web.Request) -> web.Response:
        body = msgspec.json.encode(decisions(request.query.get("model", "")[:_LONGEST_KEY]))
        return web.Response(body=body, content_type="application/json")

    app = web.Application()
    app.router.add_get("/metrics", get_metrics)
    app.router.add_get("/health", get_health)
    app.router.add_get("/ready", get_ready)
    app.router.add_get(DECISIONS_PATH, get_decisions)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answer(good: str, problem: str | None) -> web.Response:
    if problem is None:
        return web.json_response({"status": good})
    return web.json_response({"status": f"not {good}", "message": problem}, status=503)
