"""Responses that the gateway writes itself: JSON, and errors in the shape that clients of a path expect."""

import re
import zlib
from typing import Any

import msgspec
from aiohttp import web
from ams_common import dialects
from ams_common.errors import ApiError

JSON = "application/json"
SERVER = "ai-model-server"
_ZERO_WEIGHT = re.compile(r"\s*q\s*=\s*0(\.0*)?\s*").fullmatch
_GZIP_FROM_BYTES = 1024
_GZIP_LEVEL = 4  # half the time of level 6 for a few percent more bytes


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (`gzip;q=0` forbids it)."""
    for item in accept_encoding.lower().split(","):
        coding, _, parameters = item.partition(";")
        if coding.strip() in ("gzip", "x-gzip"):
            return not _ZERO_WEIGHT(parameters)
    return False


def gzipped(body: bytes) -> bytes:
    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


def compress_if_accepted(response: web.Response, request: web.BaseRequest, body: bytes) -> None:
    """Gzip a whole body of more than 1 KB when the client accepts it."""
    if len(body) <= _GZIP_FROM_BYTES or "Content-Encoding" in response.headers:
        return
    response.headers["Vary"] = "Accept-Encoding"
    if accepts_gzip(request.headers.get("Accept-Encoding", "")):
        response.body = gzipped(body)
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(len(response.body))


def json_response(request: web.BaseRequest, value: Any, status: int = 200) -> web.Response:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    response = web.Response(body=body, status=status, content_type=JSON)
    compress_if_accepted(response, request, body)
    return response


def error_response(error: ApiError, path: str, request_id: str) -> web.Response:
    return web.Response(
        status=error.status, body=error.body(path, request_id), headers=error.headers, content_type=JSON
    )


def error_event(error: ApiError, path: str, request_id: str) -> bytes:
    """An error after the status line has gone out: the last event of the stream."""
    return dialects.error_event(error.body(path, request_id), path)
