"""A connection to a pod that hands on what arrives at once, without waking a task for it."""

import asyncio
from collections.abc import Callable

from aiohttp import ClientError, StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError
from ams_common.printable import printable

from ams_gateway.proxy.decisions import ResponseCut

_BROKEN = (ClientError, OSError, HttpProcessingError)


class PodConnection(ResponseHandler):
    """aiohttp's, with `pass_on`: an event of a stream then costs a third less, and goes out as soon as it came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._loop = loop
        self._arrived: Callable[[], None] | None = None

    async def pass_on(self, payload: StreamReader, take: Callable[[bytes], bool]) -> bool:
        """Give what comes of `payload`, this connection's body, to `take`, until that says False.

        True then, False at the body's end. Raises ResponseCut, and what `take` raises.
        """
        waiter: asyncio.Future[bool] = self._loop.create_future()
        # Not in the future: an error has `arrived` in its traceback, which has the future, a cycle for each client that
        # leaves.
        failed: list[Exception] = []

        def arrived() -> None:
            if waiter.done():
                return
            try:
                while chunk := _taken(payload):  # making room may let more come in
                    if not take(chunk):
                        waiter.set_result(True)
                        return
                if payload.is_eof():
                    waiter.set_result(False)
                elif not self.connected:
                    raise ResponseCut("the connection was closed")
            except Exception as error:
                failed.append(error)
                waiter.set_result(True)

        self._arrived = arrived
        try:
            arrived()
            told = await waiter
            if failed:
                raise failed[0]
            return told
        finally:
            self._arrived = None
            failed.clear()

    async def read_any(self, payload: StreamReader) -> bytes:
        """What came of this connection's body, b"" at its end. Raises ResponseCut."""
        try:
            return await payload.readany()
        except _BROKEN as error:
            raise ResponseCut(sentence(error)) from error

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if data and self._arrived is not None:
            self._arrived()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self._arrived is not None:
            self._arrived()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp calls it at each read, and then parses nothing and tells the transport, though nothing was paused."""
        if self._reading_paused:
            super().resume_reading(resume_parser)


def sentence(error: BaseException) -> str:
    """What an error says, on one line."""
    return printable(str(error).strip().partition("\n")[0], 300) or type(error).__name__


def _taken(payload: StreamReader) -> bytes:
    try:
        return payload.read_nowait(-1)
    except _BROKEN as error:
        raise ResponseCut(sentence(error)) from error
