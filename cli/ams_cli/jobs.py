"""The two jobs of one model: fetching its weights, and serving them until the process ends."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from ams_common.adapters import LINKS, RANK_FILE
from ams_common.engines.choose import EngineChoice
from ams_common.lifecycle import Phase
from ams_common.options import environment_of
from ams_common.pod_settings import ServeSettings
from ams_common.progress import Failure, Progress
from ams_common.reasons import Reason
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import download_settings, serve_settings

from ams_cli import engines
from ams_cli.exit_reason import last_log_line, log_size, reported_failure
from ams_cli.liveness import LivenessSettings
from ams_cli.local import variables
from ams_cli.preview import Preview
from ams_cli.processes.process import Command, Exit, Launcher, LaunchError, Process
from ams_cli.readiness import ReadinessProbe
from ams_cli.tail import ProgressTail

_TAIL_SECONDS = 0.1
_OUTCOMES = (Phase.READY, Phase.FAILED)  # of the download; the model's own come from elsewhere


@dataclass(frozen=True, slots=True)
class RunFolders:
    """Where things of this run are: weights, logs, and a private folder for sockets and small files."""

    models_dir: Path
    log_dir: Path
    run_dir: Path

    def log_of(self, name: str) -> Path:
        return self.log_dir / f"{name}.log"

    def engine_log_of(self, name: str) -> Path:
        """What an engine of another make writes."""
        return self.log_dir / f"{name}.engine.log"


@dataclass(frozen=True, slots=True)
class ProcessSetup:
    """How a model's processes are started, and their settings beside the manifest.

    `memory_limit` is what all of them together may take, in bytes; None: what the machine has.
    """

    folders: RunFolders
    serve: Launcher
    download: Launcher
    grace_seconds: float = 30.0
    debug: bool = False
    memory_limit: int | None = None
    temp_dir: str = ""
    media_url_hosts: str = ""  # of models whose manifest names none
    otlp_endpoint: str = ""
    machine: engines.Machine = field(default_factory=lambda: engines.Machine({}))
    liveness: LivenessSettings = field(default_factory=LivenessSettings)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a serving process ended. `failure` is its own explanation; `how` says how, with the last line of its log."""

    failure: Failure | None
    how: str


class _Refused(Exception):
    """The engine can't serve the model; the message says why."""


class Jobs:
    """Runs one job at a time. `process` is the process of the job, while there is one."""

    def __init__(self, resource: ModelDeployment, setup: ProcessSetup) -> None:
        self.process: Process | None = None
        self.startup_began = 0  # byte of the log at which the current start-up begins, its download included
        self._downloaded = False
        self._resource = resource
        self._name = resource.metadata.name
        self._setup = setup
        self.log = setup.folders.log_of(self._name)
        self.engine_log = setup.folders.engine_log_of(self._name)
        self._links = setup.folders.run_dir / f"{self._name}.links"
        self._serial = itertools.count(1)

    async def download(self, report: Callable[[Progress], None]) -> Failure | None:
        """Fetch and verify the weights; the failure if that didn't work. Progress goes to `report`."""
        places = self._setup.folders
        progress_file, termination = self._file("progress"), self._file("download")
        settings = msgspec.structs.replace(
            download_settings(self._resource),
            models_dir=str(places.models_dir),
            engine=engines.engine_of_weights(self._resource, self._setup.machine),
            link_dir=str(self._links) if self._resource.spec.adapters else "",
            progress_port=-1,
            progress_file=str(progress_file),
            termination_log=str(termination),
        )
        written = self.startup_began = log_size(self.log)
        try:
            process = await self._start(self._setup.download, "download", settings)
            end = await _follow(process, ProgressTail(progress_file), report)
        except LaunchError as error:
            return Failure(Reason.DOWNLOAD_FAILED, str(error), retryable=True)
        finally:
            progress_file.unlink(missing_ok=True)
        if end.code == 0:
            self._downloaded = True
            return None
        unexplained = Failure(Reason.DOWNLOAD_FAILED, f"{end}; {last_log_line(self.log, written)}", retryable=True)
        return reported_failure(termination) or unexplained

    async def serve(self, report: Callable[[Progress], None], ready: Callable[[str, int], None]) -> Ended:
        """Serve until the process ends. `ready` gets the address and the pid once requests are answered."""
        socket, termination = self._file("sock"), self._file("serve")
        try:
            own = self._with_engine(serve_settings(self._resource))
        except _Refused as refused:
            return Ended(Failure(Reason.LOAD_FAILED, str(refused), retryable=False), str(refused))
        settings = msgspec.structs.replace(
            own,
            temp_dir=self._setup.temp_dir,
            media_url_hosts=own.media_url_hosts or self._setup.media_url_hosts,
            models_dir=str(self._setup.folders.models_dir),
            uds=str(socket),
            grace_seconds=self._setup.grace_seconds,
            termination_log=str(termination),
            otlp_endpoint=self._setup.otlp_endpoint,
            trace_sample_ratio=0.0 if self._setup.otlp_endpoint else 1.0,  # the gateway decides
            debug=self._setup.debug,
        )
        written = log_size(self.log)
        if not self._downloaded:
            self.startup_began = written
        self._downloaded = False
        try:
            process = await self._start(self._setup.serve, "serve", settings)
            if await _until_ready(process, socket, report):
                ready(f"unix://{socket}", process.pid)
            end = await process.wait()
        except LaunchError as error:
            return Ended(Failure(Reason.LOAD_FAILED, str(error), retryable=True), str(error))
        finally:
            socket.unlink(missing_ok=True)
        return Ended(reported_failure(termination), f"{end}; {last_log_line(self.log, written)}")

    def look(self) -> Preview:
        """What is known of the model without asking anybody: its weights, once they are there."""
        return engines.on_disk(self._resource, self._setup.folders.models_dir, self._setup.machine)

    def engine(self) -> EngineChoice:
        """Which engine serves it, by what is known now."""
        return engines.choose(self.look(), self._setup.machine)

    def _with_engine(self, settings: ServeSettings) -> ServeSettings:
        machine, seen = self._setup.machine, self.look()
        choice = engines.choose(seen, machine)
        if refused := engines.refusals(seen, choice, machine):
            raise _Refused("; ".join(refused))
        log, links = str(self.engine_log.absolute()), self._links
        return engines.with_engine(settings, seen, choice, machine, log, str(links), _lora_rank(links))

    async def _start(self, launcher: Launcher, subcommand: str, settings: msgspec.Struct) -> Process:
        environment = variables(self._resource) | environment_of(settings)
        self.process = None
        self.process = await launcher.start(Command((subcommand,), environment, str(self.log)))
        return self.process

    def _file(self, suffix: str) -> Path:
        """A file of this job. Paths of sockets have to be short, so that the name comes last and may be cut."""
        return self._setup.folders.run_dir / f"{self._name[:30]}-{next(self._serial)}.{suffix}"


def _lora_rank(links: Path) -> str:
    """The highest rank of the adapters, as their download has left it; empty where an engine isn't told."""
    try:
        return (links / LINKS / RANK_FILE).read_text()
    except OSError:
        return ""


async def _follow(process: Process, tail: ProgressTail, report: Callable[[Progress], None]) -> Exit:
    while process.running:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_TAIL_SECONDS):
                await process.wait()
        progress = tail.newest()
        if progress is not None and progress.phase not in _OUTCOMES:
            report(_of_model(progress))
    return await process.wait()


def _of_model(progress: Progress) -> Progress:
    """A download's progress as its model's: that the download starts is a part of downloading."""
    if progress.phase == Phase.STARTING:
        return msgspec.structs.replace(progress, phase=Phase.DOWNLOADING)
    return progress


async def _until_ready(process: Process, socket: Path, report: Callable[[Progress], None]) -> bool:
    """Ask until the process is ready; False when it ended instead."""
    last: Progress | None = None
    async with ReadinessProbe(str(socket)) as probe, aclosing(probe.follow()) as answers:
        async for asked in answers:
            if not process.running:
                break
            if asked is not None and asked.ready:
                return True
            if asked is not None and asked.progress is not None and asked.progress != last:
                last = asked.progress
                report(last)
    return False
