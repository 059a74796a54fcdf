"""A product on this machine that a Prometheus can scrape: model pods on ports, a gateway in front, and requests."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_server import Target
from test_serve.live_pods import flags

_PATIENCE_SECONDS = 90.0


FAULTY = Path(__file__).with_name("faulty_pod.py")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """One process and where it listens."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        request = urllib.request.Request(self.url + path, headers={"Host": "localhost"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return str(answer.read().decode())

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None, timeout: float = 60
    ) -> int:
        """The status; the body is read to its end."""
        head = {"Content-Type": "application/json", "Host": "localhost", **(headers or {})}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), head)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            error.read()
            return error.code

    def until(self, path: str) -> "Server":
        """Until this answers with 200."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError):
                self.get(path)
                return self
            waits = time.monotonic() < deadline and self.process.poll() is None
            assert waits, self.log.read_text()[-3000:]
            time.sleep(0.05)


@contextlib.contextmanager
def _server(folder: Path, name: str, port: int, command: Sequence[str], ready: str) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log_path = folder / f"{name}.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Server(process, port, log_path).until(ready)
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def pod(
    folder: Path, model: Path, name: str, *, ready: str = "/ready", program: Sequence[str] = (), **settings: Any
) -> Iterator[Server]:
    """A model pod on a port; `program` takes the place of `ams-pod`."""
    port = free_port()
    given = {
        "name": name, "source": f"file://{model}", "models_dir": folder, "host": "127.0.0.1", "port": port,
        "threads": 1, "precision": "float32", **settings,
    }  # fmt: skip
    command = [sys.executable, *(program or ("-m", "ams_pod")), "serve", *flags(given)]
    with _server(folder, name, port, command, ready) as server:
        yield server


@contextlib.contextmanager
def gateway(folder: Path, backends: Mapping[str, str], *, scheme: str = "http", **settings: Any) -> Iterator[Server]:
    """A gateway in front of the models' addresses; one that speaks HTTPS is up once its port for metrics is."""
    port = free_port()
    given = [part for name, address in backends.items() for part in ("--backend", f"{name}={address}")]
    command = [
        *(sys.executable, "-c", "from ams_gateway.main import main; main()"),
        *(*given, *flags({"host": "127.0.0.1", "port": port} | settings)),
    ]
    if scheme == "http":
        with _server(folder, "gateway", port, command, "/health") as server:
            yield server
        return
    metrics_port: int = settings["metrics_port"]
    with _server(folder, "gateway", metrics_port, command, "/metrics") as server:
        yield Server(server.process, port, server.log)


def pod_target(server: Server, model: str, pod: str = "") -> Target:
    """With the labels that the chart's PodMonitor gives."""
    return Target(f"127.0.0.1:{server.port}", {"namespace": "models", "model": model, "pod": pod or f"ams-{model}-0"})


def gateway_target(server: Server) -> Target:
    return Target(f"127.0.0.1:{server.port}", {"namespace": "ams", "pod": "ams-gateway-0"})


@dataclass
class Load:
    """Requests that come until the block ends; `statuses` of those that were answered."""

    server: Server
    bodies: Sequence[tuple[str, Mapping[str, Any]]]
    headers: Mapping[str, str] = field(default_factory=dict)
    pause: float = 0.05
    statuses: list[int] = field(default_factory=list)

    def __enter__(self) -> "Load":
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(each,)) for each in self.bodies]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _ask(self, what: tuple[str, Mapping[str, Any]]) -> None:
        while not self._stop.wait(self.pause):
            with contextlib.suppress(OSError):
                self.statuses.append(self.server.post(*what, self.headers))
