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

_MOST_HEAD = 64 << 10
_MOST_EVENT = 64 << 20  # logprobs of a long prompt are one event
_MOST_BODY = 16 << 20  # of an answer that is no stream
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?")
_SSE_END: Final = b"\n\n"


class EngineUnreachable(Exception):
    """The engine took no connection, closed one before its answer was whole, or spoke something else than HTTP."""


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
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", "Accept: */*"]
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
    stream. `on_end` is called once: with the whole answer of any other kind, with None after a stream that ended as it
    should, or with EngineUnreachable.
    """

    __slots__ = (
        "_body", "_buffer", "_chunked", "_left", "_on_end", "_on_events", "_request", "_state", "_transport", "events",
        "status",
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
        self._body = b""  # of an answer that is no stream, or the event that isn't whole
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
        self._state = "ended"
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._state == "ended":
            return
        self._buffer = self._buffer + data if self._buffer else data
        try:
            if self._state == "head" and not self._read_head():
                return
            self._read_body()
        except ValueError as error:
            self._end(EngineUnreachable(f"its answer is no HTTP ({error})"))

    def connection_lost(self, error: Exception | None) -> None:
        if self._state == "ended":
            return
        if self._state == "body" and not self._chunked and self._left is None and error is None:
            self._finish()
            return
        self._end(EngineUnreachable("it closed the connection before its answer was complete"))

    @property
    def _streams(self) -> bool:
        return self.status == 200 and self._on_events is not None

    def _read_head(self) -> bool:
        """Whether it is whole. ValueError for one that isn't HTTP's."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _MOST_HEAD:
                raise ValueError("its head is too long")
            return False
        first, *lines = self._buffer[:end].split(b"\r\n")
        if (found := _STATUS.fullmatch(first)) is None:
            raise ValueError(f"it begins with {first[:40]!a}")
        self._buffer = self._buffer[end + 4 :]
        self.status = int(found[1])
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if 100 <= self.status < 200:
            return self._read_head()
        self._chunked = headers.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        if self._chunked:
            self._left = 0
        elif (length := headers.get(b"content-length")) is not None:
            if not length.isdigit():
                raise ValueError("its length is no number")
            self._left = int(length)
        self._state = "body"
        return True

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
        body = self._body + data if self._body else data
        if not self._streams:
            if len(body) > _MOST_BODY:
                raise ValueError("its answer is too large")
            self._body = body
            return
        if b"\r" in body:
            body = body.replace(b"\r\n", b"\n")
        *events, self._body = body.split(_SSE_END)
        if len(self._body) > _MOST_EVENT:
            raise ValueError("one of its events is too large")
        found = [data for event in events if (data := _data_of(event))]
        if found and self._on_events is not None:
            self.events += len(found)
            self._on_events(found)

    def _finish(self) -> None:
        self._end(None if self._streams else Answer(self.status, self._body))

    def _end(self, result: "Answer | EngineUnreachable | None") -> None:
        if self._state == "ended":
            return
        self._state = "ended"
        if self._transport is not None:
            self._transport.abort()
        self._on_end(result)


def _data_of(event: bytes) -> bytes:
    """Of one server-sent event; empty for a comment."""
    if event.startswith(b"data: ") and b"\n" not in event:
        return event[6:]
    lines = [line[5:].lstrip(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines)


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
