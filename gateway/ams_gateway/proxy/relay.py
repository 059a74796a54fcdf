"""A pod's answer on its way to the client: bytes as they come, never decoded and encoded again."""

import re
import time
from typing import cast

from aiohttp import web
from aiohttp.http import StreamWriter
from ams_common.dialects import error_event
from ams_common.errors import ApiError
from ams_common.names import (
    HEADER_ANSWER_VERSION,
    HEADER_FINISH_REASON,
    HEADER_IGNORED_FIELDS,
    HEADER_IMAGE_SIZE,
    HEADER_MODEL,
    HEADER_POD,
    HEADER_QUEUE_SECONDS,
    HEADER_REQUEST_ID,
    HEADER_USAGE,
    USAGE_COMMENT,
)
from ams_common.printable import printable
from ams_common.request_usage import parse_usage
from multidict import CIMultiDict

from ams_gateway.front.call import AnswerRecorder, Call
from ams_gateway.front.responses import SERVER, compress_if_accepted
from ams_gateway.proxy.decisions import ResponseCut
from ams_gateway.proxy.headers import response_headers
from ams_gateway.proxy.upstream import PodResponse
from ams_gateway.registry.port import Backend, Model
from ams_gateway.usage.plausible import plausible

_WHOLE_BYTES = 256 << 10  # answers up to this size are sent in one piece, so that a cut one becomes an error
_LONGEST_EVENT_BYTES = 1 << 20
_MOST_UNREAD_BYTES = 64 << 10
_LONGEST_ERROR_BYTES = 64 << 10
_LONGEST_WAIT_SECONDS = 1e6
_EVENT_ENDS = (b"\n\n", b"\r\n\r\n")
_ERROR = b'data: {"error":'  # how the event of an error begins, whatever the API
_ERROR_CODE = re.compile(rb'"code":\s?"([a-z_]{1,40})"')
_USAGE_COMMENT = re.compile(rb"^" + re.escape(USAGE_COMMENT) + rb"[^\r\n]{0,200}\r?\n\r?\n", re.M)

# Of an answer that is kept: all that tells of the answer, and not of how this one came about.
_KEPT_HEADERS = ("Content-Type", HEADER_FINISH_REASON, HEADER_IGNORED_FIELDS, HEADER_IMAGE_SIZE, HEADER_USAGE)


class Relay:
    def __init__(self, *, expose_pod: bool) -> None:
        self._expose_pod = expose_pod

    async def relay(self, call: Call, model: Model, backend: Backend, answer: PodResponse) -> web.StreamResponse:
        """Pass an answer on. Raises ResponseCut, and ConnectionError when the client leaves."""
        call.record.first_byte_seconds = time.perf_counter() - call.started
        call.doing = "answer"
        if call.stream is not None and answer.message.code != 200:
            return await self._relay_error_into_stream(call, answer)
        if _is_stream(answer):
            return await self._relay_stream(call, model, backend, answer)
        length = int(answer.message.headers.get("Content-Length", -1))
        if call.stream is not None:
            return await self._relay_whole_into_stream(call, model, answer)
        if (answer.payload.is_eof() or 0 <= length <= _WHOLE_BYTES) and (
            body := await answer.read(_WHOLE_BYTES)
        ) is not None:
            return self._relay_whole(call, model, backend, answer, body)
        return await self._relay_chunks(call, model, backend, answer)

    async def _relay_whole_into_stream(self, call: Call, model: Model, answer: PodResponse) -> web.StreamResponse:
        """Progress was sent, and a plain answer to a stream's request is its only event."""
        assert call.stream is not None
        body = await answer.read(_LONGEST_EVENT_BYTES)
        if body is None or b"\n" in body.rstrip():
            raise ApiError("backend_failed", "The model's process answered with something else than was requested.")
        _note_usage(call, model, _header(answer, HEADER_USAGE))
        await call.stream.write(b"data: " + body.rstrip() + b"\n\n")
        return call.stream

    def _relay_whole(
        self, call: Call, model: Model, backend: Backend, answer: PodResponse, body: bytes
    ) -> web.StreamResponse:
        _note_usage(call, model, _header(answer, HEADER_USAGE))
        if answer.message.code >= 400:
            _note_error(call, body)
        headers = self._headers(call, model, backend, answer)
        if call.recorder is not None:
            _begin_record(call.recorder, backend, answer, stream=False)
            call.recorder.feed(body)
            call.recorder.end()
        response = web.Response(status=answer.message.code, body=body, headers=headers)
        compress_if_accepted(response, call.request, body)
        return response

    async def _relay_chunks(
        self, call: Call, model: Model, backend: Backend, answer: PodResponse
    ) -> web.StreamResponse:
        message = answer.message
        _note_usage(call, model, _header(answer, HEADER_USAGE))
        headers = self._headers(call, model, backend, answer)
        response = web.StreamResponse(status=message.code, headers=headers)
        await response.prepare(call.request)
        recorder = call.recorder
        if recorder is not None:
            _begin_record(recorder, backend, answer, stream=False)
        try:
            while chunk := await answer.read_chunk():
                if recorder is not None:
                    recorder.feed(chunk)
                began = time.perf_counter()
                await response.write(chunk)
                call.client_seconds += time.perf_counter() - began
        except ResponseCut:
            # Only a connection that ends too early tells the client that this answer is not whole.
            if call.request.transport is not None:
                call.request.transport.abort()
            raise
        if recorder is not None:
            recorder.end()
        return response

    async def _relay_stream(
        self, call: Call, model: Model, backend: Backend, answer: PodResponse
    ) -> web.StreamResponse:
        """Pass events on as they come, only whole ones: an error after a cut must not land inside half an event.

        The comment with the usage is for the gateway alone: clients of OpenAI's API expect none.
        """
        stream = call.stream
        if stream is None:
            message = answer.message
            headers = self._headers(call, model, backend, answer)
            headers.setdefault("X-Accel-Buffering", "no")
            headers.popall("Content-Length", None)
            stream = web.StreamResponse(status=message.code, headers=headers)
            await stream.prepare(call.request)
            call.stream = stream
        recorder = call.recorder
        if recorder is not None:
            _begin_record(recorder, backend, answer, stream=True)
        writer = cast(StreamWriter, await stream.prepare(call.request))
        writer.send_headers()  # if they wait to be sent with what follows
        events = _Events(call, model, writer)
        while await answer.pass_on(events.take):
            began = time.perf_counter()
            await writer.drain()  # while the client doesn't read
            call.client_seconds += time.perf_counter() - began
        if events.half:
            await stream.write(events.half)
        elif recorder is not None:
            recorder.end()
        return stream

    async def _relay_error_into_stream(self, call: Call, answer: PodResponse) -> web.StreamResponse:
        assert call.stream is not None
        body = await answer.read(_LONGEST_ERROR_BYTES)
        if body is None or b"\n" in body or b"\r" in body or not body.startswith(b"{"):
            raise ApiError("backend_failed", f"The model's process answered {answer.message.code} without saying why.")
        call.record.error = f"pod_answered_{answer.message.code}"
        _note_error(call, body)
        await call.stream.write(error_event(body, call.path))
        return call.stream

    def _headers(self, call: Call, model: Model, backend: Backend, answer: PodResponse) -> CIMultiDict[str]:
        headers = response_headers(answer.message.headers)
        headers["Server"] = SERVER
        headers[HEADER_REQUEST_ID] = call.record.id
        headers[HEADER_MODEL] = model.name
        headers.update(call.headers)
        call.has_headers = True
        if self._expose_pod:
            headers[HEADER_POD] = backend.id
        if call.record.held_seconds is not None:
            queued = _seconds(headers.get(HEADER_QUEUE_SECONDS)) + call.record.held_seconds
            headers[HEADER_QUEUE_SECONDS] = f"{queued:.3f}"
        return headers


class _Events:
    """The events of one answer on their way: read only as far as they tell the gateway something."""

    __slots__ = ("_call", "_model", "_writer", "half")

    def __init__(self, call: Call, model: Model, writer: StreamWriter) -> None:
        self._call, self._model, self._writer = call, model, writer
        self.half = b""

    def take(self, chunk: bytes) -> bool:
        """Write the whole events of what came; False where the client doesn't read as fast as they come."""
        call = self._call
        if self.half:
            chunk, self.half = self.half + chunk, b""
        if not chunk.endswith(_EVENT_ENDS) and len(chunk) < _LONGEST_EVENT_BYTES:
            end = _end_of_last_event(chunk)
            chunk, self.half = chunk[:end], chunk[end:]
            if not chunk:
                return True
        if USAGE_COMMENT in chunk and not (chunk := _without_usage(call, self._model, chunk)):
            return True
        call.events += 1
        if _ERROR in chunk:
            _note_error(call, chunk)
        if call.recorder is not None:
            call.recorder.feed(chunk)
        return self._write(chunk)

    def _write(self, chunk: bytes) -> bool:
        """What aiohttp's writer does with a piece of a stream, in a tenth of its time, and without waiting."""
        transport = self._writer.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        transport.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._writer.chunked else chunk)
        return transport.get_write_buffer_size() <= _MOST_UNREAD_BYTES


def _begin_record(recorder: AnswerRecorder, backend: Backend, answer: PodResponse, *, stream: bool) -> None:
    headers = response_headers(answer.message.headers)
    kept = {name: headers[name] for name in _KEPT_HEADERS if name in headers}
    backend.answer_version = version = printable(answer.message.headers.get(HEADER_ANSWER_VERSION, ""), 64)
    recorder.begin(answer.message.code, kept, version, stream=stream)


def _is_stream(answer: PodResponse) -> bool:
    return answer.message.headers.get("Content-Type", "").startswith("text/event-stream")


def _end_of_last_event(data: bytes) -> int:
    newline = data.rfind(b"\n\n")
    crlf = data.rfind(b"\r\n\r\n")
    return max(newline + 2 if newline >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


def _without_usage(call: Call, model: Model, events: bytes) -> bytes:
    """Whole events without the comment about usage, which is noted; in JSON no line begins so."""
    for comment in _USAGE_COMMENT.findall(events):
        _note_usage(call, model, comment)
    return _USAGE_COMMENT.sub(b"", events)


def _note_usage(call: Call, model: Model, text: bytes) -> None:
    """A pod is believed what it says of a request, as far as one request can have used it."""
    if (usage := parse_usage(text)) is not None:
        usage = plausible(usage, model)
        record = call.record
        record.prompt_tokens, record.completion_tokens = usage.prompt_tokens, usage.completion_tokens
        record.cached_tokens, record.media = usage.cached_tokens, usage.media
        record.compute_seconds = usage.compute_seconds or None


def _note_error(call: Call, body: bytes) -> None:
    """The code of an error that a pod answered, for whoever looks at the model."""
    if (code := _ERROR_CODE.search(body)) is not None:
        call.pod_error = code[1].decode()


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text or 0)
    except ValueError:
        return 0.0
    return min(seconds, _LONGEST_WAIT_SECONDS) if seconds > 0 else 0.0


def _header(answer: PodResponse, name: str) -> bytes:
    return printable(answer.message.headers.get(name, "")).encode()
