"""Model processes by the quickest way that works: the fork server, started anew when it dies, or a subprocess."""

import asyncio
import logging
import sys
from dataclasses import dataclass

from ams_cli.processes.forkserver import ForkServerClient
from ams_cli.processes.process import Command, LaunchError, Process
from ams_cli.processes.subprocesses import Subprocesses

logger = logging.getLogger("ams_cli")

_LAUNCHES = 3  # a fork server that keeps dying is given up


@dataclass(frozen=True, slots=True)
class Programs:
    """What is started: `pod` gets `download` or `serve` as its argument.

    With -P, so that Python files of the folder that a user happens to be in, such as a cloned model's, are never run.
    """

    pod: tuple[str, ...] = (sys.executable, "-P", "-m", "ams_pod")
    forkserver: tuple[str, ...] = (sys.executable, "-P", "-m", "ams_pod.forkserver")


PROGRAMS = Programs()


class QuickLauncher:
    """`warm` starts the fork server in the background; `close` ends it and its children."""

    def __init__(self, programs: Programs, log: str) -> None:
        self._log = log
        self._subprocesses = Subprocesses(programs.pod)
        self._program = programs.forkserver
        self._launches_left = _LAUNCHES
        self._server: ForkServerClient | None = None
        self._lock = asyncio.Lock()
        self._warming: asyncio.Task[None] | None = None

    def warm(self) -> None:
        self._warming = asyncio.create_task(self._get_ready())

    def kill(self) -> None:
        """End the fork server, and with it its children, without grace."""
        if self._server is not None:
            self._server.process.kill()

    async def close(self) -> None:
        self._launches_left = 0
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        async with self._lock:
            if self._server is not None:
                await self._server.close()

    async def start(self, command: Command) -> Process:
        """Start a process; LaunchError when neither way works."""
        if not all(name.startswith("AMS_") for name in command.variables):
            # The manifest's own variables (OMP_NUM_THREADS …) may be read by imports, which a fork has behind it.
            return await self._subprocesses.start(command)
        while (server := await self._living()) is not None:
            try:
                return await server.start(command)
            except LaunchError as error:
                logger.warning("%s", error)
                if not server.gone:
                    break
        return await self._subprocesses.start(command)

    async def _get_ready(self) -> None:
        server = await self._living()
        if server is not None:
            try:
                await server.ready()
                logger.debug("the fork server is ready")
            except LaunchError as error:
                logger.debug("%s", error)

    async def _living(self) -> ForkServerClient | None:
        """The fork server, started if there is none; None when it was given up."""
        async with self._lock:
            if self._server is not None and self._server.gone:
                await self._server.close()
                self._server = None
                if not self._launches_left:
                    logger.warning("the fork server keeps failing: models start slower (see %s)", self._log)
            if self._server is None and self._launches_left:
                self._launches_left -= 1
                try:
                    self._server = await ForkServerClient.launch(self._program, self._log)
                except LaunchError as error:
                    logger.warning("%s", error)
                    self._launches_left = 0
            return self._server
