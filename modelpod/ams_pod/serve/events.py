"""Server-sent events of one response."""

import asyncio

import msgspec
from aiohttp import web
from ams_common.dialects import error_event
from ams_common.errors import ApiError
from ams_common.names import USAGE_COMMENT

from ams_pod.serve.keys import METER, TRACK

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",  # nginx would collect the events otherwise
}
DONE = b"data: [DONE]\n\n"


class EventStream:
    """Starts the response with its first bytes, so that an error before them still gets its own status."""

    def __init__(self, request: web.Request, headers: dict[str, str], done: bytes = DONE) -> None:
        """`done` is what the API's streams end with."""
        self._request = request
        self._done = done
        self._headers = headers
        self.response: web.StreamResponse | None = None

    async def write(self, data: bytes) -> None:
        """Send bytes; a client that has left cancels the request."""
        response = self.response
        try:
            if response is None:
                response = self.response = web.StreamResponse(headers=HEADERS | self._headers)
                await response.prepare(self._request)
            await response.write(data)
        except ConnectionResetError:
            raise asyncio.CancelledError from None

    async def end(self) -> web.StreamResponse:
        await self.write(self._usage() + self._done)
        return await self._close()

    async def fail(self, error: ApiError, request_id: str, events: bytes = b"") -> web.StreamResponse:
        """Tell the error in the stream as its API does; `events` are those of an API that has more of them."""
        if (track := self._request.get(TRACK)) is not None:
            track.failed(error)
        path = self._request.path
        await self.write((events or error_event(error.body(path, request_id), path)) + self._usage())
        return await self._close()

    def _usage(self) -> bytes:
        """What the request used, for the gateway alone: as a comment."""
        meter = self._request.get(METER)
        usage = meter.tell() if meter is not None else None
        return USAGE_COMMENT + usage.text().encode() + b"\n\n" if usage is not None else b""

    async def _close(self) -> web.StreamResponse:
        response = self.response
        if response is None:
            raise RuntimeError("a stream that was never begun can't end")
        await response.write_eof()
        return response


def event(payload: object) -> bytes:
    return b"data: " + msgspec.json.encode(payload) + b"\n\n"


def named_event(payload: msgspec.Struct) -> bytes:
    """An event that is named like its payload's type."""
    return b"event: %b\n" % str(payload.__struct_config__.tag).encode() + event(payload)
