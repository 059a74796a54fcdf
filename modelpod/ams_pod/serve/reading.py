"""A request's body: its size, its type, its fields."""

import asyncio
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.parsing import decode_body, unknown_fields

T = TypeVar("T")


_SMALL_BYTES = 1 << 20
_UPLOAD_SECONDS = 120.0  # a large body that is slower would keep others from being read


async def read_json(
    request: web.Request, decoder: "msgspec.json.Decoder[T]", limit: int, large: asyncio.Semaphore
) -> tuple[T, list[str]]:
    """The decoded body and the top-level fields that were ignored. ApiError if it is too large or not as expected.

    `large` bounds how many bodies of more than 1 MiB are in memory at once; further ones wait unread.
    """
    kind = request.content_type
    if "Content-Type" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            "unsupported_media_type", f"The body must be JSON: send Content-Type: application/json, not {kind!r}."
        )
    size = request.content_length
    if size is not None and size > limit:
        raise _too_large(limit, size)
    body = bytearray()
    if await _read(request, body, min(limit, _SMALL_BYTES)):
        return _decode(decoder, body)
    async with large:
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                complete = await _read(request, body, limit)
        except TimeoutError:
            raise ApiError("request_timeout", f"The body did not arrive within {_UPLOAD_SECONDS:g} seconds.") from None
        if not complete:
            raise _too_large(limit, None)
        return _decode(decoder, body)


async def _read(request: web.Request, body: bytearray, limit: int) -> bool:
    """Read on; True at the end of the body, False as soon as there is more than `limit`."""
    while len(body) <= limit:
        block = await request.content.readany()
        if not block:
            return True
        body += block
    return False


def _decode(decoder: "msgspec.json.Decoder[T]", body: bytearray) -> tuple[T, list[str]]:
    return decode_body(decoder, body), unknown_fields(body, decoder.type)


def _too_large(limit: int, size: int | None) -> ApiError:
    details: dict[str, Any] = {"limit_bytes": limit} | ({} if size is None else {"given_bytes": size})
    return ApiError("body_too_large", f"The body is larger than this model's limit of {limit} bytes.", **details)
