"""Routes for programs that watch the gateway: `GET /metrics`, and `GET /internal/demand` for the operator."""

from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response
from ams_gateway.routes.routing import Services

_LONGEST_WAIT_SECONDS = 30.0


async def get_metrics(services: Services, call: Call) -> web.Response:
    """Prometheus' or OpenMetrics' text format."""
    body, content_type = services.metrics.expose(call.request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": content_type})


async def get_demand(services: Services, call: Call) -> web.Response:
    """`?wait=SECONDS&since=VERSION`: the report; with `wait`, held back until a request has to wait for a model."""
    query = dict(parse_qsl(call.request.raw_path.partition("?")[2]))
    since = int(_number(query, "since", 2**53))
    return json_response(
        call.request, await services.demand.report(since, _number(query, "wait", _LONGEST_WAIT_SECONDS))
    )


def _number(query: Mapping[str, str], name: str, highest: float) -> float:
    """A number of the query string between 0 and `highest`; 0 if it is missing or not a number."""
    try:
        number = float(query.get(name, "0"))
    except ValueError:
        return 0.0
    return min(number, highest) if number > 0 else 0.0
