"""Listening: sockets, TLS, bad HTTP, and a stop that lets running requests finish."""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from ams_common.errors import ApiError

from ams_gateway.app import Gateway
from ams_gateway.descriptors import most_clients, raise_descriptor_limit
from ams_gateway.tls import load_certificate

_READ_BUFFER_BYTES = 64 << 10
_BACKLOG = 1024
_COMPLAINT_SECONDS = 60.0
_HANDSHAKE_SECONDS = 10.0
_TLS_GOODBYE_SECONDS = 5.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Type: text/plain\r\nContent-Length: 29\r\n"
    b"Connection: close\r\n\r\nToo many clients right now.\r\n"
)

logger = logging.getLogger("ams_gateway")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway listens. `metrics_port` equals `port` when metrics have no port of their own."""

    host: str
    port: int
    metrics_port: int
    tls: bool = False

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http{'s' if self.tls else ''}://{host}:{self.port}"


@asynccontextmanager
async def listen(gateway: Gateway, *, monitoring_socket: str = "") -> AsyncIterator[Listening]:
    """Listen on the settings' host and port until the block ends.

    With `monitoring_socket` the port is shared with other processes, and the metrics' port is this Unix socket.

    Leaving the block stops accepting at once, gives running requests `grace_seconds`, then cancels them.
    Raises OSError when an address is taken, OptionError for a certificate that can't be used. The port of the metrics
    alone speaks plain HTTP.
    """
    settings = gateway.settings
    certificate = load_certificate(settings)
    context = None if certificate is None else certificate.context
    async with AsyncExitStack() as stack:
        if certificate is not None:
            certificate.start(gateway.note_certificate)
            stack.push_async_callback(certificate.close)
        await gateway.start()
        stack.push_async_callback(gateway.close)
        shared = bool(monitoring_socket)
        port = await stack.enter_async_context(
            _listening(_Server(gateway), gateway, settings.port, context, shared=shared)
        )
        metrics_port = port
        if settings.metrics_port:
            server = _Server(gateway, metrics_only=True)
            metrics_port = await stack.enter_async_context(
                _listening_on_socket(server, gateway, monitoring_socket)
                if shared
                else _listening(server, gateway, settings.metrics_port)
            )
        try:
            yield Listening(settings.host, port, metrics_port, tls=certificate is not None)
        finally:
            gateway.drain()


@asynccontextmanager
async def _listening(
    server: "_Server", gateway: Gateway, port: int, context: ssl.SSLContext | None = None, *, shared: bool = False
) -> AsyncIterator[int]:
    runner = web.ServerRunner(server, shutdown_timeout=gateway.settings.grace_seconds)
    await runner.setup()
    try:
        await _Site(runner, gateway.settings.host, port, context, shared=shared).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def _listening_on_socket(server: "_Server", gateway: Gateway, path: str) -> AsyncIterator[int]:
    runner = web.ServerRunner(server, shutdown_timeout=gateway.settings.grace_seconds)
    await runner.setup()
    try:
        await web.UnixSite(runner, path).start()
        yield gateway.settings.metrics_port
    finally:
        await runner.cleanup()


class _Site(web.TCPSite):
    """aiohttp's, which has no time for handshakes: a client that never ends one would keep its connection a minute."""

    def __init__(
        self, runner: web.ServerRunner, host: str, port: int, context: ssl.SSLContext | None, *, shared: bool
    ) -> None:
        super().__init__(runner, host, port, backlog=_BACKLOG, ssl_context=context, reuse_port=shared or None)
        self._context = context
        self._shared = shared

    async def start(self) -> None:
        if self._context is None:
            await super().start()
            return
        await web.BaseSite.start(self)
        server = self._runner.server
        assert server is not None
        self._server = await asyncio.get_running_loop().create_server(
            server,
            self._host,
            self._port,
            ssl=self._context,
            backlog=_BACKLOG,
            reuse_port=self._shared or None,
            ssl_handshake_timeout=_HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=_TLS_GOODBYE_SECONDS,
        )


class _Server(web.Server):
    """Makes connections that answer bad HTTP in the gateway's own format."""

    def __init__(self, gateway: Gateway, *, metrics_only: bool = False) -> None:
        super().__init__(gateway.handle_metrics if metrics_only else gateway.handle, handler_cancellation=True)
        self._gateway = gateway
        self._loop = asyncio.get_running_loop()
        self._most_clients = most_clients(raise_descriptor_limit())
        self._complained_at = 0.0
        if not metrics_only:
            gateway.saturation.clients = lambda: (len(self.connections), self._most_clients)

    def __call__(self) -> "_Connection":
        return _Connection(
            self,
            gateway=self._gateway,
            loop=self._loop,
            keepalive_timeout=self._gateway.settings.keepalive_seconds,
            access_log=None,
            read_bufsize=_READ_BUFFER_BYTES,
        )

    def is_full(self) -> bool:
        """Whether a connection that has just been made is one too many; the log has a line for it once a minute."""
        if len(self.connections) <= self._most_clients:
            return False
        now = self._loop.time()
        if not self._complained_at or now - self._complained_at > _COMPLAINT_SECONDS:
            self._complained_at = now
            logger.warning(
                "%d clients are connected, as many as the limit of open files allows (ulimit -n): more get 503",
                self._most_clients,
            )
        return True


class _Connection(web.RequestHandler):
    """One client connection. aiohttp calls `handle_error` for what its parser refuses."""

    __slots__ = ("_gateway", "_server")

    def __init__(self, server: _Server, *, gateway: Gateway, **options: Any) -> None:
        super().__init__(server, **options)
        self._gateway = gateway
        self._server = server

    async def start(self) -> None:
        """aiohttp's. Of a client that leaves while the rest of its body is read, frame and error have each other."""
        try:
            await super().start()
        except asyncio.CancelledError as error:
            error.__traceback__ = None
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """One client too many is told so before descriptors run out, when nobody could be told anything."""
        super().connection_made(transport)
        if self._server.is_full():
            full = cast(asyncio.Transport, transport)  # uvloop's has no base class
            full.write(_FULL)
            full.close()

    def data_received(self, data: bytes) -> None:
        """Broken framing in the middle of a body: aiohttp queues its 400 behind a handler that waits for that body."""
        super().data_received(data)
        if self._messages and (running := self._current_request) is not None and not running.content.is_eof():
            error = getattr(self._messages[-1][0], "exc", None)
            if error is not None:
                running.content.set_exception(web.RequestPayloadError(error.message))

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp calls it at each read, and then parses nothing and tells the transport, though nothing was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if exc is not None:
            exc.__traceback__ = None  # its frame has aiohttp's record of the error, which has it: a cycle
        reason = (message or "").strip().partition("\n")[0].rstrip(":.") or "it can't be parsed"
        if isinstance(exc, LineTooLong):
            error = ApiError("headers_too_large", f"The request line or a header is too long: {reason}.")
        else:
            error = ApiError("bad_request", f"This is not a valid HTTP request: {reason}.")
        response = self._gateway.refuse_bad_http(error)
        response.force_close()
        return response
