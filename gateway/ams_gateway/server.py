"""Listening: sockets, bad HTTP, and a stop that lets running requests finish."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from ams_gateway.app import Gateway


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a gateway listens. `metrics_port` equals `port` when metrics have no port of their own."""

    host: str
    port: int
    metrics_port: int

    @property
    def url(self) -> str:
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        return f"http://{host}:{self.port}"


@asynccontextmanager
async def serve(gateway: Gateway) -> AsyncIterator[Listening]:
    """Listen on the settings' host and port until the block ends.

    Leaving the block stops accepting at once, gives running requests `grace_seconds`, then cancels them.
    Raises OSError when the address is taken.
    """
    settings = gateway.settings
    server = web.Server(
        gateway.handle,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=settings.keepalive_seconds,
    )
    runner = web.ServerRunner(server, shutdown_timeout=settings.grace_seconds)
    await runner.setup()
    try:
        await gateway.start()
        site = web.TCPSite(runner, settings.host, settings.port, backlog=1024)
        await site.start()
        port = runner.addresses[0][1]
        yield Listening(settings.host, port, port)
    finally:
        gateway.draining = True
        await runner.cleanup()
        await gateway.close()
