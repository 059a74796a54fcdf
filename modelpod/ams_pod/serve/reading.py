"""A request's body: its size, its pace, its type, its fields."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from ams_common.errors import ApiError
from ams_common.outline import Outline, TooMuchJson
from ams_common.request_body import RequestReader
from ams_common.room import Pace, PaceLimits, Share

from ams_pod.serve.pod import ModelPod

T = TypeVar("T", bound=msgspec.Struct)


_SMALL_BYTES = 1 << 20
_AT_HAND_BYTES = 64 << 10
UPLOAD_SECONDS = 120.0  # for a whole body
PACE = PaceLimits(silence_seconds=30.0, total_seconds=UPLOAD_SECONDS, bytes_per_second=1024.0)


@contextlib.asynccontextmanager
async def json_body(
    request: web.Request, reader: RequestReader[T], pod: ModelPod
) -> AsyncIterator[tuple[T, list[str]]]:
    """The decoded body and the fields that were ignored. ApiError if it is too large or not as expected.

    A body of more than 1 MiB goes into a temp file, so that a slow one costs nobody else anything; what all unfinished
    ones take is bounded by the pod's `body_room`. `large_bodies` bounds how many of them are in memory at once: a place
    is taken when the body is here, and kept until the block ends. Then nothing may hold the large texts any more.
    """
    kind = request.content_type
    if "Content-Type" in request.headers and kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            "unsupported_media_type", f"The body must be JSON: send Content-Type: application/json, not {kind!r}."
        )
    limit = pod.settings.max_body_bytes
    check_announced(request, limit)
    if (at_hand := _at_hand(request, limit)) is not None:
        yield reader.read(at_hand)
        return
    body = bytearray()
    async with contextlib.AsyncExitStack() as stack:
        share = stack.enter_context(pod.body_room.share())
        pace = Pace(PACE, asyncio.get_running_loop().time())
        if await _read(request, body, min(limit, _SMALL_BYTES), pace, share):
            share.keep(0, asyncio.get_running_loop().time())
            yield _decode(reader, body)
            return
        file = stack.enter_context(pod.intake.folder.file())
        size = await _spool(request, body, limit, file, pace, share)
        await stack.enter_async_context(pod.large_bodies)
        yield await asyncio.to_thread(_decode_file, reader, file, size)


def _at_hand(request: web.Request, limit: int) -> bytes | None:
    """The body, if it is small and came with the head, as most do: nothing is waited for, nothing has to be bounded."""
    size = request.content_length
    if size is None or size > min(limit, _AT_HAND_BYTES) or "Content-Encoding" in request.headers:
        return None
    return request.content.read_nowait() if request.content.is_eof() else None


def check_announced(request: web.Request, limit: int) -> None:
    """ApiError `body_too_large` if the body says that it is larger than `limit`."""
    size = request.content_length
    if size is not None and size > limit:
        raise too_large(limit, size)


def too_large(limit: int, size: int | None) -> ApiError:
    details: dict[str, Any] = {"limit_bytes": limit} | ({} if size is None else {"given_bytes": size})
    return ApiError("body_too_large", f"The body is larger than this model's limit of {limit} bytes.", **details)


def upload_timed_out() -> ApiError:
    return ApiError("request_timeout", f"The body did not arrive within {UPLOAD_SECONDS:g} seconds.")


async def _next(request: web.Request, pace: Pace, share: Share) -> bytes:
    """What the client sent next, b"" at the end. ApiError when it is too slow, or had to make way for others."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(pace.patience(loop.time())) as waiting:
            share.leave = lambda: waiting.reschedule(loop.time())
            try:
                block = await request.content.readany()
            finally:
                share.leave = None
    except TimeoutError:
        raise (share.overloaded() if share.ended else pace.timed_out(loop.time())) from None
    pace.note(len(block), loop.time())
    return block


async def _read(request: web.Request, body: bytearray, limit: int, pace: Pace, share: Share) -> bool:
    """Read on; True at the end of the body, False as soon as there is more than `limit`."""
    while len(body) <= limit:
        block = await _next(request, pace, share)
        if not block:
            return True
        body += block
        share.keep(len(body), asyncio.get_running_loop().time())
    return False


async def _spool(request: web.Request, body: bytearray, limit: int, file: int, pace: Pace, share: Share) -> int:
    """Put what was read and the rest into a file; its size. What it holds is counted as it comes."""
    outline = Outline(keep=False)
    size = 0
    block = bytes(body)
    body.clear()
    share.keep(0, asyncio.get_running_loop().time())
    while block:
        if size + len(block) > limit:
            raise too_large(limit, None)
        try:
            outline.feed(block)
        except TooMuchJson as error:
            raise ApiError("body_too_large", f"The body {error}.") from None
        share.put_into_file(len(block))
        await asyncio.to_thread(_write, file, block, size)
        size += len(block)
        block = await _next(request, pace, share)
    return size


def _write(file: int, block: bytes, offset: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written


def _decode_file(reader: RequestReader[T], file: int, size: int) -> tuple[T, list[str]]:
    body = bytearray(size)
    os.preadv(file, [body], 0)
    return _decode(reader, body)


def _decode(reader: RequestReader[T], body: bytearray) -> tuple[T, list[str]]:
    """Decode, and give the bytes back at once: their texts are copies."""
    found = reader.read(body)
    body.clear()
    return found
