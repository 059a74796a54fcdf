"""Model processes out of a fork server: a process that imported torch once, and whose children start in an instant.

The messages are those of `ams_common.fork_messages`. Closing the socket ends the server and its children; they also
die with it.
"""

import asyncio
import itertools
import logging
import signal
import socket

import msgspec
from ams_common.fork_messages import ChildExited, ChildFailed, ChildStarted, ForkEvent, ForkRequest, ServerReady

from ams_cli.processes.process import Command, Exit, LaunchError, Process
from ams_cli.processes.subprocesses import spawn

logger = logging.getLogger("ams_cli")

_START_SECONDS = 10.0
_STOP_SECONDS = 15.0  # it gives its children 10


class ForkServerClient:
    """One fork server. `await ready()` before `start`; once it is gone (`gone`), every call raises LaunchError."""

    def __init__(self, server: Process, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self.process = server
        self._control = control
        self._ids = itertools.count(1)
        self._ready: asyncio.Future[None] = loop.create_future()
        self._starting: dict[int, asyncio.Future[Process]] = {}
        self._ended: dict[int, asyncio.Future[Exit]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def launch(cls, program: tuple[str, ...], log: str) -> "ForkServerClient":
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                arguments = (*program, "--control-fd", str(theirs.fileno()))
                server = await spawn(arguments, {}, log, pass_fds=(theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        return cls(server, ours)

    @property
    def gone(self) -> bool:
        return self._reading.done()

    async def ready(self) -> None:
        """Wait until it can fork. LaunchError when it ended instead."""
        await asyncio.shield(self._ready)

    async def start(self, command: Command) -> Process:
        await self.ready()
        if self.gone or self._writer is None:
            raise LaunchError("the fork server is gone")
        number = next(self._ids)
        started: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._starting[number] = started
        request = ForkRequest(number, command.arguments, command.variables, command.log)
        self._writer.write(msgspec.json.encode(request) + b"\n")
        try:
            async with asyncio.timeout(_START_SECONDS):
                return await started
        except TimeoutError:
            raise LaunchError(f"the fork server did not start a process within {_START_SECONDS:g} s") from None
        finally:
            self._starting.pop(number, None)

    async def close(self) -> None:
        """End it and all its children, and wait until they are gone."""
        if self._writer is not None:
            self._writer.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self.process.stop(_STOP_SECONDS)

    async def _read(self) -> None:
        try:
            reader, self._writer = await asyncio.open_connection(sock=self._control)
            while line := await reader.readline():
                try:
                    self._on(msgspec.json.decode(line, type=ForkEvent))
                except msgspec.DecodeError:
                    logger.warning("the fork server sent an unknown message: %r", line[:200])
        except OSError:
            pass
        finally:
            self._lost()

    def _on(self, event: ForkEvent) -> None:
        match event:
            case ServerReady():
                if not self._ready.done():
                    self._ready.set_result(None)
            case ChildStarted(id=number, pid=pid):
                ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
                self._ended[number] = ended
                process = Process(pid, ended)
                started = self._starting.get(number)
                if started is not None and not started.done():
                    started.set_result(process)
                else:  # whoever asked has given up
                    process.send_signal(signal.SIGKILL)
            case ChildExited(id=number, code=code, signal=by_signal):
                if (gone := self._ended.pop(number, None)) is not None:
                    gone.set_result(Exit(code, by_signal))
            case ChildFailed(id=number, error=error):
                if (asked := self._starting.get(number)) is not None and not asked.done():
                    asked.set_exception(LaunchError(f"the fork server could not fork: {error}"))

    def _lost(self) -> None:
        """The connection ended, and with it the server and its children."""
        error = LaunchError("the fork server is gone")
        if self._writer is not None:
            self._writer.close()
        else:
            self._control.close()
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # nobody may be waiting for it
        for started in self._starting.values():
            if not started.done():
                started.set_exception(error)
        for ended in self._ended.values():
            if not ended.done():
                ended.set_result(Exit(signal=signal.SIGKILL))
        self._ended.clear()
