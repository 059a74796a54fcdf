"""An engine that is started here: its command, its process group, and how it ends."""

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ams_common.outside import InvalidJson, read_json

from ams_pod.engines.port import LoadFailed

log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_GRACE_SECONDS = 3.0  # from SIGTERM to SIGKILL: whoever ends this process doesn't wait long
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
# Of our own environment, what no engine needs to know.
_SECRET = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Command:
    """What is started: `{model}`, `{port}` and others in `arguments` and in values of `variables` are replaced."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, command: str, variables: str) -> "Command":
        """From JSON, as in `ServeSettings`. LoadFailed for anything else."""
        try:
            arguments = read_json(command, list[str])
            named = read_json(variables or "{}", dict[str, str])
        except InvalidJson as error:
            raise LoadFailed(f"the engine's command or variables: {error}") from None
        if not arguments:
            raise LoadFailed("the engine's command is empty")
        return cls(tuple(arguments), named)

    def filled(self, model: str, port: int, words: Mapping[str, str] | None = None) -> "Command":
        """`words` are those that stand for something, beside model and port."""
        given = {"{model}": model, "{port}": str(port), **(words or {})}

        def fill(text: str) -> str:
            for word, value in given.items():
                text = text.replace(word, value)
            return text

        return Command(tuple(map(fill, self.arguments)), {name: fill(value) for name, value in self.variables.items()})


def free_port() -> int:
    """One of this machine that nobody listens at now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def new_key() -> str:
    """What an engine is to ask for, so that nobody else on the machine can use it."""
    return secrets.token_urlsafe(24)


class Child:
    """A running engine, in a process group of its own, which the kernel ends with the thread that started it."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self.started_at = time.monotonic()

    @classmethod
    def start(cls, command: Command, log_path: str, secret: Mapping[str, str]) -> "Child":
        """LoadFailed if it can't be. `secret` are variables that nobody else sees."""
        environment = {name: value for name, value in os.environ.items() if name not in _SECRET}
        environment |= {**command.variables, **secret}
        program = command.arguments[0]
        if "LD_LIBRARY_PATH" not in environment and list(Path(program).parent.glob("lib*.so*")):
            environment["LD_LIBRARY_PATH"] = str(Path(program).parent)  # as llama.cpp is packed
        try:
            output = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise LoadFailed(f"the engine's log {log_path} can't be written ({error.strerror})") from None
        try:
            process = subprocess.Popen(
                command.arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
                start_new_session=True, preexec_fn=_die_with(os.getpid()),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            raise LoadFailed(
                f"the engine can't be started: {program}: {getattr(error, 'strerror', None) or error}"
            ) from None
        finally:
            os.close(output)
        log.info("engine started as process %d: %s", process.pid, json.dumps(list(command.arguments)))
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> str | None:
        """How it ended, as `ended with status 1` or `was ended by SIGKILL`; None while it runs."""
        status = self._process.poll()
        if status is None:
            return None
        if status >= 0:
            return f"ended with status {status}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-status).name}"
        return f"was ended by signal {-status}"

    async def end(self, *, at_once: bool = False) -> None:
        """Its whole group: by SIGTERM, and by SIGKILL what is left after a moment."""
        if not at_once and self._process.poll() is None:
            self._signal(signal.SIGTERM)
            deadline = time.monotonic() + _GRACE_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        self._signal(signal.SIGKILL)
        while self._process.poll() is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def resident_bytes(self) -> int:
        """Physical memory of all processes of its group."""
        return sum(_resident(pid) for pid in _group(self._process.pid))


def _die_with(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        if _LIBC is not None:
            _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return prepare


def _group(leader: int) -> Sequence[int]:
    found = []
    for entry in os.scandir("/proc") if os.path.isdir("/proc") else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == leader:
                    found.append(int(entry.name))
    return found


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
