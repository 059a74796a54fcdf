"""`GET /metrics` in Prometheus' or OpenMetrics' text format."""

from aiohttp import web

from ams_gateway.front.call import Call
from ams_gateway.metrics import Metrics


class MetricsRoute:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def get(self, call: Call) -> web.Response:
        body, content_type = self._metrics.expose(call.request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})
