"""The operator as its users run it: a process of its own, with a log, metrics, and a Lease."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from kube_cluster import ControlPlane

_START_SECONDS = 60.0


class OperatorProcess:
    """`settings` are fields of OperatorSettings."""

    def __init__(self, plane: ControlPlane, log: Path, namespace: str, **settings: object) -> None:
        self.log = log
        given = {
            "pod_image": "ams-pod:test",
            "namespace": namespace,
            "namespaces": namespace,
            "identity": "tests",
            "host": "127.0.0.1",
            "port": 0,
            "hub_endpoint": "http://127.0.0.1:9",
            "log_format": "json",
            "lease_seconds": 90,  # a busy machine doesn't make it end
            "renew_seconds": 60,
            **settings,
        }
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AMS_")},
            **{f"AMS_{name.upper()}": str(value) for name, value in given.items()},
            "KUBECONFIG": str(plane.kubeconfig),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._begin = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ams_operator.main"], stdout=log, stderr=log, env=self._environment
            )

    def text(self) -> str:
        """What this run has logged."""
        return self.log.read_bytes()[self._begin :].decode(errors="replace") if self.log.exists() else ""

    def until_logged(self, words: str) -> str:
        deadline = time.monotonic() + _START_SECONDS
        while words not in (text := self.text()):
            assert self._process is not None
            assert self._process.poll() is None, f"the operator ended:\n{text[-3000:]}"
            assert time.monotonic() < deadline, f"{words!r} was not logged:\n{text[-3000:]}"
            time.sleep(0.02)
        return text

    def until_leading(self) -> None:
        self.until_logged(" leads")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> int:
        """As Kubernetes stops it; the exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(15)

    def wait(self, seconds: float) -> int:
        assert self._process is not None
        return self._process.wait(seconds)

    @property
    def metrics_port(self) -> int:
        found = re.search(r"metrics on port (\d+)", self.until_logged("metrics on port"))
        assert found is not None
        return int(found[1])

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def metrics_say_it_leads(self) -> bool:
        return self.metrics().get("ams_operator_leads") == 1.0

    def writes(self) -> float:
        return sum(value for name, value in self.metrics().items() if name.startswith("ams_operator_writes_total"))


@contextlib.asynccontextmanager
async def kept_running(process: OperatorProcess) -> AsyncIterator[None]:
    """Start it again whenever it ends, as a kubelet does."""

    async def look() -> None:
        while True:
            if not process.running():
                process.start()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.contextmanager
def operating(plane: ControlPlane, log: Path, namespace: str, **settings: object) -> Iterator[OperatorProcess]:
    """An operator that leads; ended afterwards."""
    process = OperatorProcess(plane, log, namespace, **settings)
    process.start()
    try:
        process.until_leading()
        yield process
    finally:
        process.kill()
