"""Request bodies: read within limits of size, time and memory, kept whole up to 1 MiB, in a file above."""

import asyncio
import logging
import mmap
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import IO

from aiohttp import StreamReader, web
from ams_common.errors import ApiError
from ams_common.outline import Outline, TooMuchJson
from ams_common.room import RETRY_AFTER_SECONDS, Pace, PaceLimits, Room, Share

logger = logging.getLogger("ams_gateway")

KEPT_BYTES = 1 << 20
"""Bodies up to this size are kept whole, and only these are sent again when a pod fails."""

# Fetch standard, CORS-safelisted request headers.
_SENT_UNASKED = ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
_SPOOL_CHUNK_BYTES = 256 << 10
_COUNTED_BYTES = 32 << 10


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Largest body in bytes, how slow a client may be, the room for all bodies, and the folder of large ones."""

    max_bytes: int
    pace: PaceLimits
    room: Room
    folder: str = ""


@dataclass(slots=True)
class Head:
    """The first bytes of a body, whether they are all of it, and since when its client has been sending."""

    data: bytes | bytearray
    whole: bool
    pace: Pace | None = None


class WholeBody:
    """A body that is here completely."""

    replayable = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.data


class SpooledBody:
    """A body in an anonymous temporary file. `outline` is its JSON without long texts, b"" for another kind of body."""

    replayable = False

    def __init__(self, file: IO[bytes], length: int, outline: bytes) -> None:
        self._file = file
        self.length = length
        self.outline = outline

    def pages(self) -> mmap.mmap:
        """The whole body to search in, without copying it into memory of our own; close it."""
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.to_thread(self._file.seek, 0)
            while chunk := await asyncio.to_thread(self._file.read, _SPOOL_CHUNK_BYTES):
                yield chunk
        except OSError as error:  # ours, not the pod's
            raise _file_failed(error) from error


class LongerBody(SpooledBody):
    """A body in a file with another beginning: `start` takes the place of its first `skipped` bytes."""

    def __init__(self, body: SpooledBody, start: bytes, skipped: int) -> None:
        super().__init__(body._file, body.length - skipped + len(start), _longer(body.outline, start))
        self._start, self._skipped = start, skipped

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self._start
        skipped = self._skipped
        async for chunk in super().chunks():
            if len(chunk) > skipped:
                yield chunk[skipped:]
            skipped = max(0, skipped - len(chunk))


def _longer(outline: bytes, start: bytes) -> bytes:
    return start + outline[outline.find(b"{") + 1 :]


Body = WholeBody | SpooledBody


def with_field(body: Body, field: bytes) -> Body:
    """A JSON object with one more field, `"name":value`, in front of those it has."""
    if isinstance(body, WholeBody):
        begin = body.data.index(b"{") + 1
        return WholeBody(body.data[:begin] + field + b"," + body.data[begin:])
    with body.pages() as pages:
        begin = pages.find(b"{") + 1
    return LongerBody(body, b"{" + field + b",", begin)


def was_decompressed(request: web.BaseRequest) -> bool:
    """Whether the body was packed with an encoding that the HTTP parser undoes."""
    return bool(request._message.compression)


def check_size(size: int, limit: int) -> None:
    if size > limit:
        raise ApiError(
            "body_too_large",
            f"The body is larger than the limit of {limit:,} bytes.",
            limit=limit,
            given=size,
        )


def check_json(request: web.BaseRequest) -> None:
    """Refuse bodies whose Content-Type is something else than JSON; without a Content-Type JSON is assumed.

    Not of a page, though: what has no type of its own is sent by browsers without asking the server first.
    """
    content_type = request.headers.get("Content-Type")
    if content_type == "application/json" or (content_type is None and "Origin" not in request.headers):
        return
    kind = (content_type or "nothing").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            "unsupported_media_type",
            f"The body must be JSON: send Content-Type: application/json, not {kind[:100]!r}.",
            headers={"Accept": "application/json"},
            given=kind[:100],
            allowed=["application/json"],
        )


def check_asked_first(request: web.BaseRequest) -> None:
    """Refuse a request without a body that a browser sends for any page, without asking this server first."""
    content_type = request.headers.get("Content-Type")
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind in _SENT_UNASKED or (content_type is None and "Origin" in request.headers):
        raise ApiError(
            "unsupported_media_type",
            f"Send Content-Type: application/json, not {kind[:100] or 'nothing'!r}.",
            headers={"Accept": "application/json"},
            allowed=["application/json"],
        )


async def read_head(request: web.BaseRequest, limits: BodyLimits) -> Head:
    """The body up to KEPT_BYTES (a little more may come).

    A body that says it is too large is refused before a byte is read, and before `100 Continue`.
    """
    content = request.content
    if content.is_eof():  # it came in one piece with the head, as small bodies do
        data = content.read_nowait(-1)
        check_size(len(data), limits.max_bytes)
        return Head(data, True)
    if (announced := request.content_length) is not None:
        check_size(announced, limits.max_bytes)
    _continue_if_expected(request)
    head = bytearray()
    pace = Pace(limits.pace, asyncio.get_running_loop().time())
    with limits.room.share() as share:
        while chunk := await _read_chunk(content, pace, share):
            head += chunk
            share.keep(len(head), asyncio.get_running_loop().time())
            check_size(len(head), limits.max_bytes)
            if len(head) >= KEPT_BYTES and not content.at_eof():
                return Head(head, False, pace)
        return Head(bytes(head), True)


@asynccontextmanager
async def spooled(
    request: web.BaseRequest, head: Head, limits: BodyLimits, outline: Outline | None
) -> AsyncIterator[SpooledBody]:
    """Read the rest of a body into a file that vanishes when the block ends. JSON is counted as it comes.

    `head` gives its bytes away, so that they aren't kept for the length of the upload.
    """
    with ExitStack() as stack:
        share = stack.enter_context(limits.room.share())
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=limits.folder or None))
            await _spool(request, head, limits, outline, file, share)
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            raise _file_failed(error) from error
        yield SpooledBody(file, share.in_files, outline.text() if outline is not None else b"")


async def _spool(
    request: web.BaseRequest, head: Head, limits: BodyLimits, outline: Outline | None, file: IO[bytes], share: Share
) -> None:
    pace = head.pace or Pace(limits.pace, asyncio.get_running_loop().time())
    first, head.data = head.data, b""
    await _count(outline, first)
    share.put_into_file(len(first))
    await asyncio.to_thread(file.write, first)
    del first
    data = bytearray()
    while True:
        share.keep(len(data), asyncio.get_running_loop().time())
        chunk = b"" if len(data) >= _SPOOL_CHUNK_BYTES else await _read_chunk(request.content, pace, share)
        if chunk:
            check_size(share.in_files + len(data) + len(chunk), limits.max_bytes)
            await _count(outline, chunk)
            data += chunk
            continue
        ended = len(data) < _SPOOL_CHUNK_BYTES
        share.put_into_file(len(data))
        await asyncio.to_thread(file.write, data)
        data.clear()
        if ended:
            break
    share.keep(0, asyncio.get_running_loop().time())
    await asyncio.to_thread(file.flush)


async def _count(outline: Outline | None, piece: bytes | bytearray) -> None:
    """Count what this piece holds, a bit at a time: the densest text must not keep other requests waiting."""
    if outline is None:
        return
    try:
        for at in range(0, len(piece), _COUNTED_BYTES):
            if at:
                await asyncio.sleep(0)
            outline.feed(piece[at : at + _COUNTED_BYTES])
    except TooMuchJson as error:
        raise ApiError("body_too_large", f"The body {error}.") from None


async def _read_chunk(content: StreamReader, pace: Pace, share: Share) -> bytes:
    """What the client sent next, b"" at the end.

    ApiError when it is too slow, had to make way for others, or its framing is broken.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(pace.patience(loop.time())) as waiting:
            share.leave = lambda: waiting.reschedule(loop.time())
            try:
                chunk = await content.readany()
            finally:
                share.leave = None
    except TimeoutError:
        raise (share.overloaded() if share.ended else pace.timed_out(loop.time())) from None
    except web.RequestPayloadError as error:
        content.feed_eof()  # nothing more can be read: aiohttp need not linger for it
        raise ApiError("bad_request", f"The body can't be read: {str(error).partition(chr(10))[0]}") from None
    pace.note(len(chunk), loop.time())
    return chunk


def _file_failed(error: OSError) -> ApiError:
    logger.error("large bodies can't be kept in the folder for them: %s", error)
    return ApiError("overloaded", "The gateway can't keep large bodies at the moment.", retry_after=RETRY_AFTER_SECONDS)


def _continue_if_expected(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
