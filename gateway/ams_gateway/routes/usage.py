"""`GET /admin/usage`: what keys have used, as JSON or CSV."""

import asyncio
import time
from urllib.parse import parse_qsl

from aiohttp import web
from ams_common.errors import ApiError

from ams_gateway.front.call import Call
from ams_gateway.front.responses import compress_if_accepted, json_response
from ams_gateway.routes.routing import Services
from ams_gateway.usage.report import Adding, read_query, to_csv
from ams_gateway.usage.store import StoreUnavailable

_CSV = "text/csv"
_RETRY_AFTER_SECONDS = 5.0
_MOST_PARAMETERS = 20
_KNOWN = ("from", "to", "group", "format")


async def get_usage(services: Services, call: Call) -> web.Response:
    parameters = _parameters(call.request.raw_path.partition("?")[2])
    as_csv = _wants_csv(parameters.get("format", ""), call.request.headers.get("Accept", ""))
    query = read_query(parameters, time.time())
    adding = Adding(query)
    try:
        await services.ledger.each(query.start, query.end, adding.take)
    except StoreUnavailable as error:
        raise ApiError(
            "usage_unavailable", f"What keys have used can't be read now: {error}.", retry_after=_RETRY_AFTER_SECONDS
        ) from None
    result = await asyncio.to_thread(adding.report)
    if not as_csv:
        return json_response(call.request, result)
    body = (await asyncio.to_thread(to_csv, result)).encode()
    headers = {"Content-Type": f"{_CSV}; charset=utf-8", "Content-Disposition": 'attachment; filename="usage.csv"'}
    response = web.Response(body=body, headers=headers)
    compress_if_accepted(response, call.request, body)
    return response


def _parameters(query: str) -> dict[str, str]:
    try:
        parameters = dict(parse_qsl(query, max_num_fields=_MOST_PARAMETERS))
    except ValueError:
        raise ApiError("invalid_parameter", f"The query has more than {_MOST_PARAMETERS} parameters.") from None
    if unknown := [name for name in parameters if name not in _KNOWN]:
        raise ApiError(
            "invalid_parameter", f"There is no {unknown[0][:50]!r} here: use {', '.join(_KNOWN)}.",
            param=unknown[0][:50], allowed=list(_KNOWN),
        )  # fmt: skip
    return parameters


def _wants_csv(format_: str, accept: str) -> bool:
    if format_ not in ("", "csv", "json"):
        raise ApiError(
            "invalid_parameter", f"format can't be {format_[:50]!r}: use csv or json.",
            param="format", given=format_[:50], allowed=["csv", "json"],
        )  # fmt: skip
    return format_ == "csv" or (not format_ and _CSV in accept.lower() and "json" not in accept.lower())
