"""Runs `ams-pod download` as a process of its own, as a pod does."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COMMAND = """
import pathlib, sys
from ams_pod.download.main import run
status = run(sys.argv[2:])
if (memory := pathlib.Path("/proc/self/status")).exists():
    pathlib.Path(sys.argv[1]).write_text(memory.read_text())
sys.exit(status)
"""


@dataclass
class Outcome:
    """How a download ended. `failure` is the line of the termination log, None after success."""

    status: int
    stdout: str
    stderr: str
    failure: dict[str, Any] | None
    progress: list[dict[str, Any]]
    peak_bytes: int | None  # of memory, where the kernel tells it
    lock: dict[str, Any] | None = None  # that was told at its end

    @property
    def folder(self) -> Path:
        assert self.status == 0, self.stderr
        return Path(self.stdout.strip())

    @property
    def reason(self) -> str:
        assert self.status == 1, self.stderr
        assert self.failure is not None
        return str(self.failure["reason"])

    @property
    def message(self) -> str:
        assert self.failure is not None
        return str(self.failure["message"])


class Downloads:
    """Downloads from one hub into one models folder."""

    def __init__(self, base: Path, endpoint: str) -> None:
        self.base = base
        self.models = base / "models"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AMS_", "PIP_"))},
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(base / "hf-home"),
        }
        self._count = 0
        self.started: list[Process] = []

    def start(self, source: str, *flags: str, **environment: str) -> "Process":
        self._count += 1
        process = Process(self, self._count, source, flags, environment)
        self.started.append(process)
        return process

    def end(self) -> None:
        """End what a failed test left running."""
        for process in self.started:
            if process.process.poll() is None:
                process.process.kill()
            process.process.wait()

    def run(self, source: str, *flags: str, **environment: str) -> Outcome:
        return self.start(source, *flags, **environment).wait()


class Process:
    """One running download."""

    def __init__(
        self, downloads: Downloads, number: int, source: str, flags: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        base = downloads.base
        self._termination = base / f"termination-{number}"
        self._progress = base / f"progress-{number}"
        self._memory = base / f"memory-{number}"
        self._out, self._err = base / f"out-{number}", base / f"err-{number}"
        arguments = [
            *("--source", source, "--models-dir", str(downloads.models)),
            *("--progress-host", "127.0.0.1", "--progress-port", "0", "--progress-file", str(self._progress)),
            *("--termination-log", str(self._termination), *flags),
        ]
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-c", _COMMAND, str(self._memory), *arguments],
                stdout=out,
                stderr=err,
                env={**downloads.environment, **environment},
            )

    def wait(self, seconds: float = 60) -> Outcome:
        try:
            self.process.wait(seconds)
        finally:
            self.kill()
        told = json.loads(self._termination.read_text()) if self._termination.exists() else {}
        failure = told if "reason" in told else None
        return Outcome(
            self.process.returncode, self._out.read_text(), self.stderr, failure, self.progress, self._peak_bytes(),
            told.get("lock"),
        )  # fmt: skip

    def kill(self) -> None:
        """kill -9, if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _peak_bytes(self) -> int | None:
        lines = self._memory.read_text().splitlines() if self._memory.exists() else []
        return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")), None)

    @property
    def stderr(self) -> str:
        return self._err.read_text()

    @property
    def progress(self) -> list[dict[str, Any]]:
        if not self._progress.exists():
            return []
        return [json.loads(line) for line in self._progress.read_text().splitlines()]

    def address(self) -> str:
        """http://host:port of its progress server."""
        mark = "progress at "
        until(lambda: mark in self.stderr and "/progress" in self.stderr)
        return self.stderr.partition(mark)[2].partition("/progress")[0]

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.address() + path, timeout=5) as response:
            return str(response.read().decode())


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)
