"""Connections to pods: kept alive, taken last in first out, and honest about how far a request got.

aiohttp's client session hides whether a connection had been used before, which decides whether a POST may be sent
again, and costs a task and a timer for each request. So this module keeps the pool itself and uses the layer under the
session: aiohttp's client protocol with its parser in C.
"""

import asyncio
import contextlib
import errno
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import ClientError, StreamReader
from aiohttp.http import RawResponseMessage, StreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from ams_common.errors import ApiError

from ams_gateway.front.body import Body, WholeBody
from ams_gateway.proxy.connection import PodConnection, sentence
from ams_gateway.proxy.decisions import NoHttp, PodEnded, StaleConnection, Unreachable
from ams_gateway.registry.port import Backend, Registry

_CONNECT_SECONDS = 5.0
_IDLE_SECONDS = 60.0  # pods keep idle connections for 75 s: the gateway lets go first
_READ_BUFFER_BYTES = 64 << 10
_JOINED_BYTES = 16 << 10  # larger bodies aren't copied to be sent in one piece with their head
_STALE_SECONDS = 1.0  # a closed connection shows within a round trip; what ends later had reached the pod
_DEAD_PEER_MILLISECONDS = 30_000
_MOST_INTERIM_RESPONSES = 16
_OUR_LIMITS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
_RETRY_AFTER_SECONDS = 5.0
_TIDY_SECONDS = 10.0


class PodResponse:
    """The head of a pod's response, and its body to read. `close` it in any case."""

    __slots__ = ("_ahead", "_connection", "_pool", "_upload", "message", "payload")

    def __init__(
        self,
        message: RawResponseMessage,
        payload: StreamReader,
        connection: PodConnection,
        pool: "Pool",
        upload: asyncio.Task[None] | None,
    ) -> None:
        self.message = message
        self.payload = payload
        self._connection = connection
        self._pool = pool
        self._upload = upload
        self._ahead = b""

    async def read_chunk(self) -> bytes:
        """What came of the body, b"" at its end. Raises ResponseCut."""
        if self._ahead:
            chunk, self._ahead = self._ahead, b""
            return chunk
        return await self._connection.read_any(self.payload)

    async def pass_on(self, take: Callable[[bytes], bool]) -> bool:
        """Give what comes of the body to `take` at once, until it says False; True then, False at the body's end.

        Raises ResponseCut, and what `take` raises.
        """
        if self._ahead:
            chunk, self._ahead = self._ahead, b""
            if not take(chunk):
                return True
        return await self._connection.pass_on(self.payload, take)

    async def read(self, most_bytes: int) -> bytes | None:
        """The whole body; None if it is larger. Raises ResponseCut."""
        chunks = [await self.read_chunk()]
        total = len(chunks[0])
        while total <= most_bytes and not self.payload.at_eof():
            chunks.append(await self.read_chunk())
            total += len(chunks[-1])
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if total > most_bytes:
            self._ahead = body
            return None
        return body

    async def peek(self, most_bytes: int) -> bytes | None:
        """Like `read`, but what was read is read again."""
        body = await self.read(most_bytes)
        if body is not None:
            self._ahead = body
        return body

    def close(self) -> None:
        """Keep the connection when request and answer are complete, else cut it: the pod then stops its work."""
        if self._upload is not None and not self._upload.done():
            self._upload.cancel()
            self._connection.abort()
        elif self.payload.is_eof() and not self._connection.should_close:
            self._pool.give_back(self._connection)
        else:
            self._connection.abort()


class Pool:
    """Keep-alive connections to one pod, without a limit: the pod's own queue is the limit."""

    def __init__(self, address: str) -> None:
        self.host, self._open = _dialer(address)
        self._idle: deque[tuple[PodConnection, float]] = deque()

    async def send(self, head: bytes, body: Body, *, fresh: bool = False) -> PodResponse:
        """Send one request and wait for the head of its response; `fresh` avoids kept connections.

        Raises Unreachable, StaleConnection, PodEnded or NoHttp, ApiError when the fault is the gateway's own.
        """
        if fresh and self._idle:
            self._idle.popleft()[0].close()  # the new one takes its place, or they would only ever become more
        connection = None if fresh else self._take()
        reused = connection is not None
        if connection is None:
            connection = await self._connect()
        sent_at = time.monotonic()
        upload: asyncio.Task[None] | None = None
        try:
            if isinstance(body, WholeBody):
                _write(connection, head, body.data)
            else:
                upload = asyncio.create_task(_upload(connection, head, body))
            message, payload = await connection.read()
            for _ in range(_MOST_INTERIM_RESPONSES):
                if message.code >= 200:
                    break
                message, payload = await connection.read()
            else:
                raise HttpProcessingError(message="it sends interim responses without end")
        except BaseException as error:
            if upload is not None:
                upload.cancel()
            connection.abort()
            if isinstance(error, HttpProcessingError):
                raise NoHttp(sentence(error)) from error
            if isinstance(error, ClientError | OSError):
                soon = time.monotonic() - sent_at < _STALE_SECONDS
                raise (StaleConnection if reused and soon else PodEnded)(sentence(error)) from error
            raise
        return PodResponse(message, payload, connection, self, upload)

    def give_back(self, connection: PodConnection) -> None:
        self._idle.append((connection, time.monotonic()))

    def close_idle(self, older_than: float | None = None) -> int:
        """Close connections that were not used for so many seconds (60 if not given); how many are left."""
        limit = time.monotonic() - (_IDLE_SECONDS if older_than is None else older_than)
        while self._idle and self._idle[0][1] <= limit:
            self._idle.popleft()[0].close()
        return len(self._idle)

    def _take(self) -> PodConnection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if connection.is_connected() and not connection.should_close and time.monotonic() - since < _IDLE_SECONDS:
                return connection
            connection.close()
        return None

    async def _connect(self) -> PodConnection:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                connection = await self._open()
        except TimeoutError:
            raise Unreachable(f"no connection within {_CONNECT_SECONDS:g} s") from None
        except OSError as error:
            if error.errno in _OUR_LIMITS:  # no pod's fault: none is left out for it
                raise ApiError(
                    "overloaded", "The gateway has no more connections to give.", retry_after=_RETRY_AFTER_SECONDS
                ) from error
            raise Unreachable(sentence(error)) from error
        _notice_dead_peer(connection)
        connection.set_response_params(
            read_until_eof=True, auto_decompress=False, read_bufsize=_READ_BUFFER_BYTES, max_field_size=64 << 10
        )
        return connection


class Pools:
    """A pool for each pod, made at its first request and dropped when the pod is gone."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._pools: dict[Backend, Pool] = {}

    def of(self, backend: Backend) -> Pool:
        if (pool := self._pools.get(backend)) is None:
            pool = self._pools[backend] = Pool(backend.address)
        return pool

    def known(self, pod: str) -> Backend | None:
        """The pod of this id, also where it takes no requests just now."""
        return next((backend for backend in self._pools if backend.id == pod), None)

    async def keep_tidy(self) -> None:
        """Close what is idle or leads to pods that are gone, until cancelled."""
        while True:
            await asyncio.sleep(_TIDY_SECONDS)
            current = {backend for model in self._registry.models() for backend in self._registry.backends(model)}
            for backend, pool in list(self._pools.items()):
                gone = backend not in current
                if not pool.close_idle(0 if gone else None) and gone and not backend.in_flight:
                    del self._pools[backend]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close_idle(0)
        self._pools.clear()


def _write(connection: PodConnection, head: bytes, data: bytes = b"") -> None:
    transport = connection.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("closed before the request was sent")
    if len(data) <= _JOINED_BYTES:
        transport.write(head + data)
    else:
        transport.writelines((head, data))


async def _upload(connection: PodConnection, head: bytes, body: Body) -> None:
    """Send head and body as fast as the pod takes them. A failure to read the body ends the wait for the answer."""
    writer = StreamWriter(connection, asyncio.get_running_loop())
    try:
        _write(connection, head)
        async with contextlib.aclosing(body.chunks()) as chunks:
            async for chunk in chunks:
                await writer.write(chunk)
        await writer.write_eof()
    except Exception as error:
        connection.set_exception(error)


def _dialer(address: str) -> tuple[str, Callable[[], Awaitable[PodConnection]]]:
    """(Host header, how to open a connection) of `http://host:port` or `unix:///path`. ValueError otherwise."""
    parts = urlsplit(address)
    if parts.scheme == "unix" and parts.path:

        async def open_unix() -> PodConnection:
            loop = asyncio.get_running_loop()
            return (await loop.create_unix_connection(lambda: PodConnection(loop), parts.path))[1]

        return "localhost", open_unix
    host, port = parts.hostname, parts.port or 80
    if parts.scheme != "http" or not host or parts.path.strip("/"):
        raise ValueError(f"{address!r} is not a pod's address: expected http://host:port or unix:///path")

    async def open_tcp() -> PodConnection:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: PodConnection(loop), host, port))[1]

    return parts.netloc.rpartition("@")[2], open_tcp


def _notice_dead_peer(connection: PodConnection) -> None:
    """Let the kernel end connections to a machine that vanished without a word."""
    sock = connection.transport.get_extra_info("socket") if connection.transport is not None else None
    if sock is None or sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError, AttributeError):  # not every system has these options
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DEAD_PEER_MILLISECONDS)
