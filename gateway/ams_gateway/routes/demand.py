"""`GET /internal/demand?wait=SECONDS&since=VERSION` for the operator, on the port of the metrics."""

from urllib.parse import parse_qsl

import msgspec
from aiohttp import web

from ams_gateway.demand import Demand, query_number
from ams_gateway.front.call import Call
from ams_gateway.front.responses import json_response

_LONGEST_WAIT_SECONDS = 30.0


class DemandRoute:
    def __init__(self, demand: Demand) -> None:
        self._demand = demand

    async def get(self, call: Call) -> web.Response:
        """The report; with `wait`, held back until a request has to wait for a model."""
        query = dict(parse_qsl(call.request.raw_path.partition("?")[2]))
        since = int(query_number(query, "since", 2**53))
        report = await self._demand.report(since, query_number(query, "wait", _LONGEST_WAIT_SECONDS))
        return json_response(call.request, msgspec.json.encode(report))
