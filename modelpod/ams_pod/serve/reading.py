"""A request's body: its size, its type, its fields."""

from typing import Any, TypeVar

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.parsing import decode_body, unknown_fields

T = TypeVar("T")


async def read_json(request: web.Request, decoder: "msgspec.json.Decoder[T]", limit: int) -> tuple[T, list[str]]:
    """The decoded body and the top-level fields that were ignored. ApiError if it is too large or not as expected."""
    kind = request.content_type
    if "Content-Type" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            "unsupported_media_type", f"The body must be JSON: send Content-Type: application/json, not {kind!r}."
        )
    body = await _read(request, limit)
    return decode_body(decoder, body), unknown_fields(body, decoder.type)


async def _read(request: web.Request, limit: int) -> bytes:
    size = request.content_length
    if size is not None and size > limit:
        raise _too_large(limit, size)
    body = bytearray()
    async for block in request.content.iter_any():
        body += block
        if len(body) > limit:
            raise _too_large(limit, None)
    return bytes(body)


def _too_large(limit: int, size: int | None) -> ApiError:
    details: dict[str, Any] = {"limit_bytes": limit} | ({} if size is None else {"given_bytes": size})
    return ApiError("body_too_large", f"The body is larger than this model's limit of {limit} bytes.", **details)
