"""Runs the steps of a page in one shell, as a reader would who types them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from test_docs.blocks import Step, matches

_BACKGROUND_SECONDS = 240.0
_REPEAT_SECONDS = 60.0
_SHELL_SECONDS = 300.0


class StepFailed(AssertionError):
    pass


class Shell:
    """A bash whose variables and folder last from step to step; what runs in the background ends with it."""

    def __init__(self, folder: Path, environment: Mapping[str, str], rewrite: Callable[[str], str]) -> None:
        self._folder = folder
        self._environment = dict(environment)
        self._rewrite = rewrite  # what is different here from a reader's machine, such as a port
        self._state = folder / ".shell-state"
        self._state.write_text("")
        self._background: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []

    def run_all(self, steps: Sequence[Step]) -> None:
        for step in steps:
            self.run(step)

    def run(self, step: Step) -> None:
        """StepFailed when its status isn't 0 or it prints something else than the page shows."""
        if step.background is not None:
            return self._start(step, step.background)
        deadline = time.monotonic() + (_REPEAT_SECONDS if step.is_repeated else 0.0)
        while True:
            status, printed = self._execute(step)
            if status == 0 and matches(self._rewrite(step.output), printed):
                return None
            if time.monotonic() >= deadline:
                raise StepFailed(_told(step, status, printed))
            time.sleep(0.5)

    def close(self) -> None:
        for process, log in reversed(self._background):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            log.close()

    def _execute(self, step: Step) -> tuple[int, str]:
        if step.is_python:
            command = [sys.executable, "-c", self._rewrite(step.command)]
        else:
            script = f"set -a; . '{self._state}'; set +a\n{self._rewrite(step.command)}\nstatus=$?\n"
            keep = f"declare -p KEY ADMIN > '{self._state}.new' 2>/dev/null; mv '{self._state}.new' '{self._state}'\n"
            command = ["bash", "-c", script + keep + "exit $status"]
        done = subprocess.run(
            command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_SHELL_SECONDS,
        )  # fmt: skip
        return done.returncode, done.stdout.decode(errors="replace")

    def _start(self, step: Step, text: str) -> None:
        log = (self._folder / f"background-{len(self._background)}.log").open("w+b")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {self._rewrite(step.command)}"], cwd=self._folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._background.append((process, log))
        deadline = time.monotonic() + _BACKGROUND_SECONDS
        while True:
            printed = Path(log.name).read_text(errors="replace")
            if text in printed and matches(f"...\n{self._rewrite(step.output)}\n...", printed):
                return
            if process.poll() is not None or time.monotonic() >= deadline:
                raise StepFailed(_told(step, process.poll(), printed))
            time.sleep(0.1)


def _told(step: Step, status: int | None, printed: str) -> str:
    shown = step.output or "(anything)"
    return f"$ {step.command}\nstatus {status}; the page shows\n{shown}\nit printed\n{printed[-4000:]}"
