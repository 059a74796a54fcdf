"""Request bodies: read within limits, kept whole up to 1 MiB, streamed on or spooled to a file above."""

import asyncio
import mmap
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import IO

from aiohttp import StreamReader, web
from ams_common.errors import ApiError

KEPT_BYTES = 1 << 20
"""Bodies up to this size are kept whole, and only these are sent again when a pod fails."""

_SPOOL_CHUNK_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Largest body in bytes, and how long a client may be silent while it sends one, in seconds."""

    max_bytes: int
    silence_seconds: float


class WholeBody:
    """A body that is here completely. `length` of a body is None when it isn't known before its end."""

    replayable = True

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length: int | None = len(data)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        yield self.data


class StreamedBody:
    """A body whose first bytes are here; the rest is read from the client as the pod takes it."""

    replayable = False

    def __init__(self, data: bytes, request: web.BaseRequest, limits: BodyLimits) -> None:
        self.data = data
        self.length = None if was_decompressed(request) else request.content_length
        self._request = request
        self._limits = limits

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        total, data = len(self.data), self.data
        self.data = b""  # sent once, not kept for the length of the upload
        yield data
        while chunk := await read_chunk(self._request.content, self._limits):
            total += len(chunk)
            check_size(total, self._limits.max_bytes)
            yield chunk


class SpooledBody:
    """A body in an anonymous temporary file."""

    replayable = False

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file = file
        self.length = length

    @contextmanager
    def mapped(self) -> Iterator[memoryview]:
        """The whole body as a view of the file's pages: nothing is copied into memory of our own."""
        with self.pages() as pages, memoryview(pages) as view:
            yield view

    def pages(self) -> mmap.mmap:
        """The same to search in; close it."""
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, _SPOOL_CHUNK_BYTES):
            yield chunk


Body = WholeBody | StreamedBody | SpooledBody


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
    """Refuse bodies whose Content-Type is something else than JSON; without a Content-Type JSON is assumed."""
    content_type = request.headers.get("Content-Type")
    if content_type is None or content_type == "application/json":
        return
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise ApiError(
            "unsupported_media_type",
            f"The body must be JSON: send Content-Type: application/json, not {kind[:100]!r}.",
            headers={"Accept": "application/json"},
            given=kind[:100],
            allowed=["application/json"],
        )


async def read_head(request: web.BaseRequest, limits: BodyLimits) -> tuple[bytes, bool]:
    """The body up to KEPT_BYTES (a little more may come), and whether that is all of it.

    A body that says it is too large is refused before a byte is read, and before `100 Continue`.
    """
    content = request.content
    if content.is_eof():  # it came in one piece with the head, as small bodies do
        data = content.read_nowait(-1)
        check_size(len(data), limits.max_bytes)
        return data, True
    if (announced := request.content_length) is not None:
        check_size(announced, limits.max_bytes)
    _continue_if_expected(request)
    head = bytearray()
    while chunk := await read_chunk(content, limits):
        head += chunk
        check_size(len(head), limits.max_bytes)
        if len(head) >= KEPT_BYTES and not content.at_eof():
            return bytes(head), False
    return bytes(head), True


async def read_chunk(content: StreamReader, limits: BodyLimits) -> bytes:
    """What the client sent next, b"" at the end. ApiError when it is silent too long or its framing is broken."""
    try:
        async with asyncio.timeout(limits.silence_seconds):
            return await content.readany()
    except TimeoutError:
        raise ApiError(
            "request_timeout", f"The client sent nothing of its body for {limits.silence_seconds:g} seconds."
        ) from None
    except web.RequestPayloadError as error:
        content.feed_eof()  # nothing more can be read: aiohttp need not linger for it
        raise ApiError("bad_request", f"The body can't be read: {str(error).partition(chr(10))[0]}") from None


@asynccontextmanager
async def spooled(request: web.BaseRequest, head: bytes, limits: BodyLimits, folder: str) -> AsyncIterator[SpooledBody]:
    """Read the rest of a body into a file that vanishes when the block ends."""
    with tempfile.TemporaryFile(dir=folder or None) as file:
        total, data = len(head), bytearray(head)
        while True:
            chunk = await read_chunk(request.content, limits)
            total += len(chunk)
            check_size(total, limits.max_bytes)
            data += chunk
            if len(data) >= KEPT_BYTES or not chunk:
                await asyncio.to_thread(file.write, data)
                data = bytearray()
            if not chunk:
                break
        await asyncio.to_thread(file.flush)
        yield SpooledBody(file, total)


def _continue_if_expected(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect")
    if expected is not None and expected.lower() == "100-continue" and request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
