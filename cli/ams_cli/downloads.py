"""`ams download`: the weights of manifests, ahead of the first request."""

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ams_common.progress import Failure, Progress
from ams_common.quantity import format_bytes
from ams_common.resource.spec import ModelDeployment
from ams_common.source import ClaimSource, parse_source

from ams_cli import engines, weights
from ams_cli.jobs import Jobs, ProcessSetup, RunFolders
from ams_cli.processes.launcher import Programs
from ams_cli.processes.subprocesses import Subprocesses
from ams_cli.report import Lines

Report = Callable[[str, Progress], None]


async def download_all(
    resources: Sequence[ModelDeployment],
    models_dir: Path,
    log_dir: Path,
    programs: Programs,
    machine: engines.Machine,
    say: Callable[[str], None],
) -> bool:
    """Download the weights of each, one after another: a hub is not faster for two. False if one failed."""
    worked = True
    launcher = Subprocesses(programs.pod)
    with TemporaryDirectory(prefix="ams-") as scratch:
        setup = ProcessSetup(
            RunFolders(models_dir, log_dir, Path(scratch)), serve=launcher, download=launcher, machine=machine
        )
        for resource in resources:
            name = resource.metadata.name
            if isinstance(parse_source(resource.spec.model.source), ClaimSource):
                say(f"{name}: skipped: {resource.spec.model.source} is a volume of a cluster")
                continue
            present = weights.folder(resource, models_dir, engines.engine_of_weights(resource, machine)) is not None
            with _shown(say) as report:
                failure = await _download(Jobs(resource, setup), name, report)
            if failure is not None:
                worked = False
                say(f"{name}: {failure.reason}: {failure.message}")
                continue
            folder = weights.folder(resource, models_dir, engines.engine_of_weights(resource, machine))
            size = format_bytes(weights.bytes_on_disk(resource, folder))
            say(f"{name}: {'already there' if present else 'downloaded'}: {size} in {folder}")
    return worked


async def _download(jobs: Jobs, name: str, report: Report) -> Failure | None:
    try:
        return await jobs.download(lambda progress: report(name, progress))
    except asyncio.CancelledError:
        if jobs.process is not None:
            jobs.process.kill()
        raise


@contextlib.contextmanager
def _shown(say: Callable[[str], None]) -> Iterator[Report]:
    """A progress bar where a person looks, lines elsewhere."""
    if not sys.stderr.isatty():
        lines = Lines()
        loop = asyncio.get_running_loop()

        def report_lines(name: str, progress: Progress) -> None:
            if (line := lines.line(name, progress, loop.time())) is not None:
                say(line)

        yield report_lines
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    parts = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*parts, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("", total=None)

        def report_bar(name: str, progress: Progress) -> None:
            download = progress.download
            bars.update(
                task,
                description=f"{name} {progress.phase}",
                total=download.bytesTotal if download else None,
                completed=download.bytesDone if download else 0,
            )

        yield report_bar
