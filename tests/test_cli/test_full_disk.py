"""Logs that can't be written stop no model, and are reported once."""

import subprocess
import sys
from pathlib import Path

import pytest
from ams_cli.logs import LogFile
from ams_cli.processes.forkserver import ForkServerClient
from ams_cli.processes.launcher import PROGRAMS
from ams_cli.processes.process import Command, Exit
from ams_cli.processes.subprocesses import Subprocesses

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="the system has no /dev/full")
USAGE = (*PROGRAMS.pod, "--help")


def test_a_log_on_a_full_disk_is_reported_once(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "kept.log")
    log.close()
    log._file = FULL.open("ab", buffering=0)
    reports: list[str] = []
    log.on_fault = reports.append
    for _ in range(3):
        log.write(b"a line\n")
    log.close()
    assert reports == [
        f"{tmp_path}/kept.log can't be written (No space left on device): lines of the logs are lost until that is "
        "mended"
    ]


def test_a_log_that_cannot_be_opened_is_reported_at_the_first_line(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "no" / "folder.log")
    reports: list[str] = []
    log.on_fault = reports.append
    log.write(b"a line\n")
    log.close()
    assert [report.partition(" can't be written (")[2].partition(")")[0] for report in reports] == [
        "No such file or directory"
    ]


@pytest.mark.parametrize("log", [str(FULL), "/no/such/folder/m.log"])
async def test_a_process_runs_on_without_its_log(log: str) -> None:
    process = await Subprocesses(PROGRAMS.pod).start(Command(("--help",), {}, log))
    assert await process.wait() == Exit(code=0)


@pytest.mark.parametrize("log", [str(FULL), "/no/such/folder/m.log"])
async def test_a_forked_process_runs_on_without_its_log(log: str, tmp_path: Path) -> None:
    program = (sys.executable, "-P", "-c", FORK_SERVER, "ams_pod.forkserver")
    server = await ForkServerClient.launch(program, str(tmp_path / "forkserver.log"))
    try:
        process = await server.start(Command(("--help",), {}, log))
        assert await process.wait() == Exit(code=0)
    finally:
        await server.close()


# The real fork server without its imports, which take seconds.
FORK_SERVER = """
import socket, sys
from ams_pod import forkserver
with socket.socket(fileno=int(sys.argv[sys.argv.index("--control-fd") + 1])) as control:
    forkserver.ForkServer(control).run(lambda: None)
"""


def test_output_goes_on_after_what_was_lost(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom ams_pod.output import drop_what_the_disk_refuses\ndrop_what_the_disk_refuses()\n"
        "print('lost' * 10_000)\nprint('lost', file=sys.stderr)\nsys.stderr.buffer.write(b'lost'); sys.stderr.flush()\n"
        f"os.dup2(os.open({str(tmp_path / 'log')!r}, os.O_CREAT | os.O_WRONLY), 1)\nprint('kept')\n"
    )
    with FULL.open("wb") as full:
        done = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=full, timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "log").read_text() == "kept\n"
