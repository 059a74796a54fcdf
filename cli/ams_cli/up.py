"""`ams up`: the gateway and a supervised process for each model, until Ctrl-C."""

import asyncio
import contextlib
import errno
import json
import logging
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop
from ams_common.names import route_name
from ams_common.options import OptionError
from ams_common.quantity import InvalidQuantity, parse_memory
from ams_common.resource.spec import ModelDeployment
from ams_common.wire import ModelOverview
from ams_gateway.app import Gateway
from ams_gateway.auth.door import Door, open_door
from ams_gateway.collector import collecting_rarely
from ams_gateway.front.access import is_loopback
from ams_gateway.front.log import RequestLog
from ams_gateway.redis_link import open_link
from ams_gateway.server import Listening, listen
from ams_gateway.settings import GatewaySettings, HttpSettings, check_folder
from ams_gateway.tls import load_certificate

from ams_cli import engines, machine, weights
from ams_cli.fleet import Fleet
from ams_cli.jobs import ProcessSetup, RunFolders
from ams_cli.logs import LineHandler, LogFile, rotate
from ams_cli.machine import process_resident_bytes
from ams_cli.processes.launcher import Programs, QuickLauncher
from ams_cli.processes.subprocesses import Subprocesses
from ams_cli.report import Lines
from ams_cli.screen import Screen, open_screen
from ams_cli.settings import UpSettings
from ams_cli.supervisor import Supervisor

logger = logging.getLogger("ams_cli")

_REFRESH_SECONDS = 0.25
_INTERRUPTED = 130  # what shells expect of a program that Ctrl-C ended
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_SOCKET_FOLDER = 60  # of the 107 bytes that a socket's path may have


class UpError(Exception):
    """`ams up` can't run; the message is a sentence."""


@dataclass(frozen=True, slots=True)
class Folders:
    """`keys` is the file of API keys where the settings name none; there need be no such file.

    `usage` is the file of the ledger.
    """

    models: Path
    logs: Path
    keys: Path
    usage: Path


def run(
    settings: UpSettings,
    resources: Sequence[ModelDeployment],
    folders: Folders,
    notes: Sequence[str],
    programs: Programs,
    engine_programs: engines.Programs,
) -> int:
    """Serve until a signal comes; the exit status. UpError when it can't start."""
    has = _engines(engine_programs)
    _refuse_engines(resources, folders.models, has)
    memory_limit = _memory_limit(settings.memory_limit)
    check_folder(settings)
    open_link(settings.redis_url, settings.redis_password)
    door = open_door(settings, default_keys_file=folders.keys)
    load_certificate(settings)
    for flag, folder in (("--models-dir", folders.models), ("--log-dir", folders.logs)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UpError(f"{flag} {folder}: {error.strerror}") from None
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as supervisor:
        return supervisor.run(_Up(settings, resources, folders, programs, memory_limit, door, has).run(notes))


class _Up:
    def __init__(
        self,
        settings: UpSettings,
        resources: Sequence[ModelDeployment],
        folders: Folders,
        programs: Programs,
        memory_limit: int | None,
        door: Door,
        has: engines.Machine,
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._folders = folders
        self._programs = programs
        self._memory_limit = memory_limit
        self._door = door
        self._engines = has
        self._lines = Lines()
        self._screen: Screen
        self._gateway: Gateway | None = None

    async def run(self, notes: Sequence[str]) -> int:
        with ExitStack() as stack:
            run_dir = stack.enter_context(_private_folder())
            log = LogFile(self._folders.logs / "gateway.log")
            stack.callback(log.close)
            for resource in self._resources:
                rotate(self._folders.logs / f"{resource.metadata.name}.log")
                rotate(self._folders.logs / f"{resource.metadata.name}.engine.log")
            rotate(forkserver_log := self._folders.logs / "forkserver.log")
            launcher = QuickLauncher(self._programs, str(forkserver_log))
            setup = ProcessSetup(
                RunFolders(self._folders.models, self._folders.logs, run_dir),
                serve=launcher,
                download=Subprocesses(self._programs.pod),
                grace_seconds=self._settings.grace_seconds,
                debug=self._settings.debug,
                memory_limit=self._memory_limit,
                temp_dir=self._settings.temp_dir,
                media_url_hosts=self._settings.media_url_hosts,
                otlp_endpoint=self._settings.otlp_endpoint,
                machine=self._engines,
            )
            fleet = Fleet(self._resources, setup, self._tell_change)
            self._screen = open_screen(lambda: self._models(fleet))
            stack.callback(self._screen.close)
            log.on_fault = self._screen.say
            stack.enter_context(_logging(self._screen, log, debug=self._settings.debug))
            for note in notes:
                self._screen.say(note)
            for name, supervisor in fleet.supervisors.items():
                if (choice := supervisor.engine).name != "builtin":
                    self._screen.say(f"{name}: engine {choice.name}: {choice.reason}")
            return await self._serve(fleet, launcher, log)

    async def _serve(self, fleet: Fleet, launcher: QuickLauncher, log: LogFile) -> int:
        def write_request_lines(lines: bytes) -> None:
            log.write(lines)
            self._screen.say(lines.decode(errors="replace"))

        request_log = RequestLog(write_request_lines, self._settings.log_format)
        self._gateway = gateway = Gateway(fleet, self._gateway_settings(), request_log=request_log, door=self._door)
        interrupted = _Interruption(fleet, launcher)
        try:
            async with AsyncExitStack() as stack:
                stack.push_async_callback(launcher.close)
                stack.push_async_callback(fleet.close)
                try:
                    listening = await stack.enter_async_context(listen(gateway))
                except OSError as error:
                    raise UpError(self._why_not(error)) from None
                await stack.enter_async_context(collecting_rarely())
                launcher.warm()
                fleet.start()
                self._announce(listening)
                await self._show_until(interrupted.stop)
                self._screen.say("stopping: waiting for running requests; press Ctrl-C again to end them")
                fleet.drain()
        except asyncio.CancelledError:
            if not interrupted.at_once:
                raise
            return _INTERRUPTED
        self._screen.refresh()
        self._screen.say("stopped; nothing is left running")
        return 0

    def _gateway_settings(self) -> GatewaySettings:
        names = [field.name for field in msgspec.structs.fields(HttpSettings)]
        values = {name: getattr(self._settings, name) for name in names}
        values["admin_paths"] = self._settings.admin_paths or is_loopback(self._settings.host)
        values["usage_file"] = str(self._folders.usage)
        return GatewaySettings(**values)

    async def _show_until(self, stop: asyncio.Event) -> None:
        """Keep the table fresh until `stop`."""
        if not self._screen.has_table:
            await stop.wait()
        while not stop.is_set():
            self._screen.refresh()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await stop.wait()

    def _models(self, fleet: Fleet) -> list[ModelOverview]:
        """What the table shows: as `GET /overview` tells it, and the memory of models that are still loading."""
        if self._gateway is None:
            return []
        return [_with_memory(model, fleet.supervisors[model.name]) for model in self._gateway.look()]

    def _tell_change(self, supervisor: Supervisor) -> None:
        now = asyncio.get_running_loop().time()
        if (line := self._lines.line(supervisor.name, supervisor.progress, now)) is not None:
            logger.log(logging.WARNING if supervisor.progress.failure else logging.INFO, "%s", line)

    def _announce(self, listening: Listening) -> None:
        names = ", ".join(resource.metadata.name for resource in self._resources)
        is_open = self._door.authentication.is_open
        self._screen.say(
            f"AI Model Server on {listening.url} serves {names}. Logs: {self._folders.logs}. Ctrl-C stops it.\n"
            f"Try:  {example(self._resources, self._folders.models, listening.url, key=not is_open)}"
        )

    def _why_not(self, error: OSError) -> str:
        host, port = self._settings.host, self._settings.port
        if error.errno == errno.EADDRINUSE:
            return f"port {port} on {host} is in use by another program; stop it, or choose another port with --port"
        if error.errno == errno.EACCES:
            return f"port {port} needs root; choose one above 1023 with --port"
        return f"can't listen on {host}:{port}: {error.strerror or error}"


class _Interruption:
    """Signals: the first one asks to stop, the second one ends everything at once."""

    def __init__(self, fleet: Fleet, launcher: QuickLauncher) -> None:
        self.stop = asyncio.Event()
        self.at_once = False
        self._fleet = fleet
        self._launcher = launcher
        self._task = asyncio.current_task()
        for number in _SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if not self.stop.is_set():
            self.stop.set()
        elif not self.at_once and self._task is not None:
            self.at_once = True
            self._fleet.kill()
            self._launcher.kill()
            self._task.cancel()


def example(resources: Sequence[ModelDeployment], models: Path, url: str, *, key: bool = False) -> str:
    """A command that one of the models answers, preferably one that takes text alone and is there already.

    `key`: with an API key, which whoever types it has in $AMS_API_KEY.
    """

    def effort(resource: ModelDeployment) -> tuple[bool, bool]:
        folder = weights.folder(resource, models)
        family = weights.family(resource, folder)
        needs_image = family is not None and family.needs_image
        return needs_image, folder is None and not resource.spec.cache.prefetch

    chosen = min(resources, key=effort)
    needs_image, _ = effort(chosen)
    route = f"{url}/generate/{route_name(chosen.metadata.name)}"
    authorization = ' -H "Authorization: Bearer $AMS_API_KEY"' if key else ""
    call = f"curl -s {route}{authorization} -H 'Content-Type: application/json' -d"
    if needs_image:  # through a pipe: an argument may not be as long as a picture
        question = """{"prompt": "What is in the picture?", "image": "'$(base64 -w0 picture.jpg)'"}"""
        return f"echo '{question}' | {call} @-"
    question = json.dumps({"prompt": "What is the capital of France?", "max_new_tokens": 20, "temperature": 0})
    return f"{call} '{question}'"


def _engines(programs: engines.Programs) -> engines.Machine:
    free = machine.gpu_free_bytes() if (gpus := machine.gpu_count()) else None
    return engines.Machine(programs, gpus, tuple(free or ()))


def _refuse_engines(resources: Sequence[ModelDeployment], models: Path, has: engines.Machine) -> None:
    """UpError for a model whose engine isn't here, or can't do what it asks for."""
    refused = []
    for resource in resources:
        seen = engines.on_disk(resource, models, has)
        why = engines.refusals(seen, engines.choose(seen, has), has)
        refused += [f"{resource.metadata.name}: {sentence}" for sentence in why]
    if refused:
        raise UpError("\n".join(refused))


def _memory_limit(text: str) -> int | None:
    try:
        return parse_memory(text) if text else None
    except InvalidQuantity as error:
        raise OptionError(f"--memory-limit={text!r}: {error}") from None


def _with_memory(model: ModelOverview, supervisor: Supervisor) -> ModelOverview:
    process = supervisor.process
    if process is None or (resident := process_resident_bytes(process.pid)) is None:
        return model
    return msgspec.structs.replace(model, memory_bytes=resident)


@contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can enter, with a path short enough for sockets in it."""
    folder = tempfile.mkdtemp(prefix="ams-")
    if len(os.fsencode(folder)) > _LONGEST_SOCKET_FOLDER:
        os.rmdir(folder)
        folder = tempfile.mkdtemp(prefix="ams-", dir="/tmp")
    try:
        yield Path(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _logging(screen: Screen, log: LogFile, *, debug: bool) -> Iterator[None]:
    """Send Python's logging to the screen and the gateway's log file while the block runs."""
    handlers = [LineHandler(screen.say), LineHandler(lambda line: log.write(f"{line}\n".encode()))]
    root = logging.getLogger()
    before = root.level
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(logging.DEBUG if debug else logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.INFO if debug else logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
