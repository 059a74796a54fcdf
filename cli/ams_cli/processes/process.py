"""A process that was started, however that was done."""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by its exit code or by a signal's number."""

    code: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is None:
            return f"the process exited with status {self.code}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        hint = ", often for lack of memory" if self.signal == signal.SIGKILL else ""
        return f"the process was killed ({name}){hint}"


class Process:
    """A running process. Whoever started it sets `ended` once, when it is gone."""

    def __init__(self, pid: int, ended: "asyncio.Future[Exit]") -> None:
        self.pid = pid
        self._ended = ended

    @property
    def running(self) -> bool:
        return not self._ended.done()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._ended)

    def send_signal(self, number: int) -> None:
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    async def stop(self, grace_seconds: float) -> Exit:
        """Ask the process to end, insist after `grace_seconds`, and wait until it is gone."""
        self.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                return await self.wait()
        except TimeoutError:
            self.kill()
            return await self.wait()


@dataclass(frozen=True, slots=True)
class Command:
    """What to run: arguments of `python -m ams_pod`, variables on top of our environment, and where output goes."""

    arguments: tuple[str, ...]
    variables: dict[str, str]
    log: str


class LaunchError(Exception):
    """A process could not be started; the message is a sentence."""


class Launcher(Protocol):
    async def start(self, command: Command) -> Process:
        """Start a process; LaunchError when that doesn't work."""
