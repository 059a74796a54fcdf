"""HTTP/1.1 to an engine on loopback or a Unix socket: one request a connection, its answer as it comes.

The one module of an engine that knows HTTP. A library's client costs more per token than an engine does on a small
model: here what a read brings is cut into events where it lies, with no task and no copy per token.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import msgspec

_MOST_HEAD = 64 << 10
_MOST_EVENT = 64 << 20  # logprobs of a long prompt are one event
_MOST_BODY = 16 << 20  # of an answer that is no stream
_MOST_CARRIED = 64 << 10  # of an event that isn't whole, until which it is put together anew with each read
_MOST_LENGTH_DIGITS = 15
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?")
_SSE_END: Final = b"\n\n"
_BLANK_LINE = re.compile(rb"\n\r?\n|\r\r")
_BLANK_BYTES = 3
_MARK: Final = b"\xef\xbb\xbf"  # of UTF-8, that a stream may begin with
_NO_STREAMS = (b"application/json", b"application/problem+json", b"text/html")
_NO_BODY = (204, 304)


class EngineUnreachable(Exception):
    """The engine took no connection, or closed one before its answer was whole."""


class UnusableAnswer(EngineUnreachable):
    """The engine is there, and its answer is no HTTP, compressed, or larger than any that was asked for."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where an engine listens: a port of this machine, or the path of a Unix socket. `key` is what it asks for."""

    host: str = "127.0.0.1"
    port: int = 0
    path: str = ""
    key: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str, key: str = "") -> "Address":
        """From http://127.0.0.1:8000 or unix:///run/engine.sock. ValueError for anything else."""
        parts = urlsplit(text)
        if parts.scheme == "unix" and parts.path:
            return cls(path=parts.path, key=key)
        if parts.scheme != "http" or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise ValueError(
                f"{text!r} is no address of an engine, as http://127.0.0.1:8000 or unix:///run/engine.sock"
            )
        return cls(host=parts.hostname, port=parts.port, key=key)

    @property
    def text(self) -> str:
        return f"unix://{self.path}" if self.path else f"http://{self.host}:{self.port}"

    def head(self, method: str, path: str, length: int) -> bytes:
        """The request's head, up to its body."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"]
        lines += ["Accept: */*", "Accept-Encoding: identity"]
        if self.key:
            lines.append(f"Authorization: Bearer {self.key}")
        if method == "POST":
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    body: bytes


class Exchange(asyncio.Protocol):
    """One request and its answer.

    `on_events` takes the data of the server-sent events that a read brought, of an answer with status 200 that is a
    stream: one that doesn't say that it is JSON or a page. `on_end` is called once: with the whole answer of any other
    kind, with None after a stream that ended as it should, or with EngineUnreachable.
    """

    __slots__ = (
        "_begun", "_body", "_buffer", "_chunked", "_collected", "_left", "_on_end", "_on_events", "_request", "_state",
        "_streams", "_transport", "events", "status",
    )  # fmt: skip

    def __init__(
        self,
        request: bytes,
        on_end: Callable[[Answer | EngineUnreachable | None], None],
        on_events: Callable[[list[bytes]], None] | None = None,
    ) -> None:
        self._request = request
        self._on_events, self._on_end = on_events, on_end
        self._transport: asyncio.Transport | None = None
        self._state = "head"  # then "body", then "ended"
        self._buffer = b""  # what was read and not used
        self._body = b""  # the event that isn't whole, while it is short
        self._collected = bytearray()  # such an event once it is long, or the body of an answer that is no stream
        self._streams = False
        self._begun = False  # the body of a stream
        self._chunked = False
        self._left: int | None = None  # bytes of the body, or of the chunk; None: up to the end
        self.status = 0
        self.events = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = made = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        if self._state == "ended":  # given up meanwhile
            made.abort()
            return
        made.write(self._request)
        self._request = b""

    def abort(self) -> None:
        """Close at once; nothing more is told."""
        self._close()

    def data_received(self, data: bytes) -> None:
        if self._state == "ended":
            return
        self._buffer = self._buffer + data if self._buffer else data
        try:
            if self._state == "head" and not self._read_head():
                return
            self._read_body()
        except ValueError as error:
            self._end(UnusableAnswer(f"its answer is no HTTP ({error})"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._state == "ended":
            return
        if self._state == "body" and not self._chunked and self._left is None and error is None:
            self._finish()
            return
        self._end(EngineUnreachable("it closed the connection before its answer was complete"))

    def _read_head(self) -> bool:
        """Whether it is whole. ValueError for one that isn't HTTP's."""
        buffer, at = self._buffer, 0
        while True:
            end = buffer.find(b"\r\n\r\n", at)
            if end < 0:
                self._buffer = buffer[at:]
                if len(self._buffer) > _MOST_HEAD:
                    raise ValueError("its head is too long")
                return False
            first, *lines = buffer[at:end].split(b"\r\n")
            if (found := _STATUS.fullmatch(first)) is None:
                raise ValueError(f"it begins with {first[:40]!a}")
            at = end + 4
            self.status = int(found[1])
            if self.status >= 200:  # those below come in front of an answer
                break
        self._buffer = buffer[at:]
        self._read_headers(lines)
        self._state = "body"
        return True

    def _read_headers(self, lines: list[bytes]) -> None:
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise ValueError("it is compressed, which wasn't asked for")
        kind = headers.get(b"content-type", b"").lower()
        self._streams = self.status == 200 and self._on_events is not None and not kind.startswith(_NO_STREAMS)
        self._chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        if self._chunked:
            self._left = 0
        elif (length := headers.get(b"content-length")) is not None:
            if not length.isdigit() or len(length) > _MOST_LENGTH_DIGITS:
                raise ValueError("its length is no number")
            self._left = int(length)
        if self.status in _NO_BODY:
            self._chunked, self._left = False, 0

    def _read_body(self) -> None:
        if not self._chunked:
            data, self._buffer = self._buffer, b""
            if self._left is not None:
                data = data[: self._left]
                self._left -= len(data)
            self._take(data)
            if self._left == 0:
                self._finish()
            return
        taken, at, buffer = [], 0, self._buffer
        size = len(buffer)
        ended = False
        while at < size:
            left = self._left or 0
            if left > 2:  # its last two bytes end the line
                piece = buffer[at : at + left - 2]
                taken.append(piece)
                self._left = left - len(piece)
                at += len(piece)
                continue
            if left:
                used = min(left, size - at)
                self._left = left - used
                at += used
                continue
            end = buffer.find(b"\r\n", at)
            if end < 0:
                if size - at > 1024:
                    raise ValueError("a chunk has no length")
                break
            length = int(buffer[at:end].partition(b";")[0], 16)
            if length < 0 or length > 1 << 40:
                raise ValueError("a chunk has an impossible length")
            at = end + 2
            if length == 0:
                ended = True
                break
            self._left = length + 2
        self._buffer = buffer[at:]
        if taken:
            self._take(taken[0] if len(taken) == 1 else b"".join(taken))
        if ended and self._state != "ended":
            self._finish()

    def _take(self, data: bytes) -> None:
        if not self._streams:
            self._collect(data, _MOST_BODY, "its answer is too large")
            return
        if self._collected:
            behind = max(0, len(self._collected) - _BLANK_BYTES)
            self._collect(data, _MOST_EVENT, "one of its events is too large")
            if _BLANK_LINE.search(self._collected, behind) is None:
                return
            body = bytes(self._collected)
            self._collected = bytearray()
        else:
            body = self._body + data if self._body else data
        if not self._begun:
            if len(body) < len(_MARK):
                self._body = body
                return
            self._begun = True
            body = body.removeprefix(_MARK)
        if b"\r" in body:
            body = _with_one_kind_of_ends(body)
        *events, self._body = body.split(_SSE_END)
        if len(self._body) > _MOST_CARRIED:
            left, self._body = self._body, b""
            self._collect(left, _MOST_EVENT, "one of its events is too large")
        self._tell(events)

    def _collect(self, data: bytes, most: int, complaint: str) -> None:
        if len(self._collected) + len(data) > most:
            raise ValueError(complaint)
        self._collected += data

    def _tell(self, events: list[bytes]) -> None:
        found = [data for event in events if (data := _data_of(event))]
        if found and self._on_events is not None:
            self.events += len(found)
            self._on_events(found)

    def _finish(self) -> None:
        if not self._streams:
            self._end(Answer(self.status, bytes(self._collected)))
            return
        left = bytes(self._collected) or self._body
        self._collected, self._body = bytearray(), b""
        if left:  # the last event, of an engine that sends no blank line behind it
            self._tell([_with_one_kind_of_ends(left.removeprefix(_MARK)).rstrip(b"\n")])
        self._end(None)

    def _end(self, result: "Answer | EngineUnreachable | None") -> None:
        if self._state == "ended":
            return
        on_end = self._on_end
        self._close()
        on_end(result)

    def _close(self) -> None:
        self._state = "ended"
        self._on_events, self._on_end = None, _unheard  # who listens has this exchange: a cycle for each request
        if self._transport is not None:
            self._transport.abort()


def _unheard(_: "Answer | EngineUnreachable | None") -> None:
    """What is over tells nobody."""


def _with_one_kind_of_ends(body: bytes) -> bytes:
    """Lines that end with CR LF, or CR alone, end with LF. A last CR stays: what follows may be its LF."""
    body = body.replace(b"\r\n", b"\n")
    if b"\r" in body[:-1]:
        body = body[:-1].replace(b"\r", b"\n") + body[-1:]
    return body


def _data_of(event: bytes) -> bytes:
    """Of one server-sent event; empty for a comment. That of an event `error` is an object with it as `error`."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = event.split(b"\n")
    data = b"\n".join(line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:"))
    if data and any(line.startswith(b"event:") and line[6:].strip() == b"error" for line in lines):
        return b'{"error":%b}' % (data if data.lstrip().startswith(b"{") else msgspec.json.encode(_text(data)))
    return data


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


async def connect(address: Address, exchange: Exchange) -> None:
    """Send the exchange's request. EngineUnreachable if nobody listens."""
    loop = asyncio.get_running_loop()
    try:
        if address.path:
            await loop.create_unix_connection(lambda: exchange, address.path)
        else:
            await loop.create_connection(lambda: exchange, address.host, address.port)
    except OSError as error:
        raise EngineUnreachable(f"nothing listens at {address.text} ({error.strerror or error})") from None


async def fetch(address: Address, path: str, *, method: str = "GET", body: bytes = b"", seconds: float = 5.0) -> Answer:
    """A whole answer. EngineUnreachable, also where it takes longer than `seconds`."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[Answer] = loop.create_future()

    def end(answer: Answer | EngineUnreachable | None) -> None:
        if result.done():
            return
        if isinstance(answer, Answer):
            result.set_result(answer)
        else:
            result.set_exception(answer or EngineUnreachable("it gave no answer"))

    exchange = Exchange(address.head(method, path, len(body)) + body, end)
    try:
        async with asyncio.timeout(seconds):
            await connect(address, exchange)
            return await result
    except TimeoutError:
        raise EngineUnreachable(f"it gave no answer to {path} for {seconds:g} s") from None
    finally:
        exchange.abort()
