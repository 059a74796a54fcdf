"""Model processes as plain subprocesses: each imports its libraries anew."""

import asyncio
import ctypes
import os
import signal
import sys
from collections.abc import Callable
from subprocess import DEVNULL
from typing import BinaryIO

from ams_cli.processes.environment import inherited
from ams_cli.processes.process import Command, Exit, LaunchError, Process

_PR_SET_PDEATHSIG = 1
_watching: set["asyncio.Task[None]"] = set()  # the loop keeps only weak references to its tasks


class Subprocesses:
    """Starts `program` with a command's arguments."""

    def __init__(self, program: tuple[str, ...]) -> None:
        self._program = program

    async def start(self, command: Command) -> Process:
        return await spawn((*self._program, *command.arguments), command.variables, command.log)


async def spawn(
    arguments: tuple[str, ...], variables: dict[str, str], log: str, pass_fds: tuple[int, ...] = ()
) -> Process:
    """Start a program in a session of its own, so that Ctrl-C reaches only us; it dies with us.

    Its environment is ours without our settings, and `variables`; its output is appended to the file `log`.
    LaunchError when it can't be started.
    """
    spawning = asyncio.create_task(_spawn(arguments, variables, log, pass_fds))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:  # whoever asked has given up; nothing of it may stay
        (await spawning).kill()
        raise


async def _spawn(arguments: tuple[str, ...], variables: dict[str, str], log: str, pass_fds: tuple[int, ...]) -> Process:
    try:
        with _appended(log) as output:
            child = await asyncio.create_subprocess_exec(
                *arguments,
                env=inherited(os.environ) | variables,
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
            )
    except OSError as error:
        raise LaunchError(f"{arguments[0]} can't be started: {error.strerror or error}") from None
    ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
    watch = asyncio.create_task(_watch(child, ended))
    _watching.add(watch)
    watch.add_done_callback(_watching.discard)
    return Process(child.pid, ended)


def _appended(log: str) -> BinaryIO:
    """The log, or a file that drops everything: a log that can't be written must not keep a model from starting."""
    try:
        return open(log, "ab", buffering=0)
    except OSError:
        return open(os.devnull, "ab", buffering=0)


async def _watch(child: asyncio.subprocess.Process, ended: "asyncio.Future[Exit]") -> None:
    code = await child.wait()
    ended.set_result(Exit(code=code) if code >= 0 else Exit(signal=-code))


def _die_with_parent() -> Callable[[], object] | None:
    """What a child runs first so that it doesn't outlive a killed `ams up`; only Linux can do it."""
    if sys.platform != "linux":
        return None
    libc, parent = ctypes.CDLL(None), os.getpid()

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was killed before we asked
            os._exit(1)

    return ask
