"""Asking a model process over its Unix socket for its progress."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

import aiohttp
from ams_common.outside import InvalidJson, read_json
from ams_common.progress import Progress

_POLL_SECONDS = 0.02
_WAIT_SECONDS = 0.1
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Asked:
    """What `/ready` said: `ready`, or the progress if there was any."""

    ready: bool
    progress: Progress | None = None


class ReadinessProbe:
    """A connection to one process, kept alive between questions. Use it as an async context manager."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    async def __aenter__(self) -> "ReadinessProbe":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._path), timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, wait_seconds: float = 0.0) -> Asked | None:
        """What the process says now, or so much later unless it is ready before; None when it doesn't answer (yet)."""
        try:
            async with self._session.get(f"http://pod/ready?wait={wait_seconds:g}") as response:
                body = await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
        if response.status == 200:
            return Asked(True)
        try:
            return Asked(False, read_json(body, Progress))
        except InvalidJson:
            return Asked(False)

    async def follow(self) -> AsyncGenerator[Asked | None, None]:
        """What the process says, as it comes: that it is ready at once, all else ten times a second."""
        clock = asyncio.get_running_loop().time
        while True:
            began = clock()
            yield await self.ask(_WAIT_SECONDS)
            if (rest := _POLL_SECONDS - (clock() - began)) > 0:  # it has no socket yet, or doesn't wait
                await asyncio.sleep(rest)
