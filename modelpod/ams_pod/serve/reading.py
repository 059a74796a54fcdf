"""A request's body: its size, its type, its fields."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.parsing import decode_body, unknown_fields

T = TypeVar("T")


_SMALL_BYTES = 1 << 20
_UPLOAD_SECONDS = 120.0  # a large body that is slower would keep others from being read


@contextlib.asynccontextmanager
async def json_body(
    request: web.Request, decoder: "msgspec.json.Decoder[T]", limit: int, large: asyncio.Semaphore
) -> AsyncIterator[tuple[T, list[str]]]:
    """The decoded body and the top-level fields that were ignored. ApiError if it is too large or not as expected.

    `large` bounds how many bodies of more than 1 MiB are in memory at once; further ones wait unread. The place is
    kept until the block ends: then nothing may hold the large texts any more.
    """
    kind = request.content_type
    if "Content-Type" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            "unsupported_media_type", f"The body must be JSON: send Content-Type: application/json, not {kind!r}."
        )
    check_announced(request, limit)
    body = bytearray()
    if await _read(request, body, min(limit, _SMALL_BYTES)):
        yield _decode(decoder, body)
        return
    async with large:
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                complete = await _read(request, body, limit)
        except TimeoutError:
            raise ApiError("request_timeout", f"The body did not arrive within {_UPLOAD_SECONDS:g} seconds.") from None
        if not complete:
            raise too_large(limit, None)
        yield _decode(decoder, body)


def check_announced(request: web.Request, limit: int) -> None:
    """ApiError `body_too_large` if the body says that it is larger than `limit`."""
    size = request.content_length
    if size is not None and size > limit:
        raise too_large(limit, size)


def too_large(limit: int, size: int | None) -> ApiError:
    details: dict[str, Any] = {"limit_bytes": limit} | ({} if size is None else {"given_bytes": size})
    return ApiError("body_too_large", f"The body is larger than this model's limit of {limit} bytes.", **details)


async def _read(request: web.Request, body: bytearray, limit: int) -> bool:
    """Read on; True at the end of the body, False as soon as there is more than `limit`."""
    while len(body) <= limit:
        block = await request.content.readany()
        if not block:
            return True
        body += block
    return False


def _decode(decoder: "msgspec.json.Decoder[T]", body: bytearray) -> tuple[T, list[str]]:
    """Decode, and give the bytes back at once: their texts are copies."""
    found = decode_body(decoder, body), unknown_fields(body, decoder.type)
    body.clear()
    return found
