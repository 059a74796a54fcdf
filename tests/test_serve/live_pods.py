"""Real pod processes on Unix sockets, and real gateways in front of them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from ams_gateway.app import Gateway
from ams_gateway.front.log import RequestLog
from ams_gateway.registry.static import StaticRegistry
from ams_gateway.server import listen
from ams_gateway.settings import GatewaySettings
from prometheus_client.parser import text_string_to_metric_families
from test_serve.live_client import Client

PATIENCE_SECONDS = 60.0  # a failing test's, never a passing one's


def flags(settings: dict[str, Any]) -> list[str]:
    return [
        part
        for name, value in settings.items()
        for part in ("--" + name.replace("_", "-"), *(() if value is True else (str(value),)))
    ]


@dataclass
class LivePod:
    """A running pod: `pid` of its process, `socket` that it listens on, `log` of its output."""

    name: str
    socket: Path
    log: Path
    pid: int

    @property
    def address(self) -> str:
        return f"unix://{self.socket}"

    @property
    def client(self) -> Client:
        return Client(unix=str(self.socket))

    def wait_ready(self) -> "LivePod":
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with suppress(OSError):
                if self.client.get("/ready").status == 200:
                    return self
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not get ready: {self.log.read_text()}")

    def load(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/load").json()
        return found

    def outcomes(self) -> dict[str, float]:
        """Requests that ended, by outcome."""
        return {
            sample.labels["outcome"]: sample.value
            for family in text_string_to_metric_families(self.client.get("/metrics").text)
            for sample in family.samples
            if sample.name == "ams_pod_requests_total"
        }

    def until_load(self, **expected: int) -> None:
        """Wait until /load says so; the test fails if it never does."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not expected.items() <= (found := self.load()).items():
            assert time.monotonic() < deadline, f"{found} instead of {expected}"
            time.sleep(0.005)


@contextmanager
def pod_process(folder: Path, model: Path, name: str, **settings: Any) -> Iterator[tuple[LivePod, Any]]:
    """`python -m ams_pod serve` over a checkpoint, not ready yet; ended with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    pod = LivePod(name, folder / f"{name}.sock", folder / f"{name}.log", 0)
    with pod.log.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ams_pod", "serve", *flags(pod_settings(pod, model, settings))],
            stdout=log,
            stderr=log,
        )
    pod.pid = process.pid
    try:
        yield pod, process
    finally:
        process.kill()
        process.wait()


def pod_settings(pod: LivePod, model: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a test's pod; tiny models compute faster on one thread."""
    basic = {"name": pod.name, "source": f"file://{model}", "models_dir": pod.socket.parent, "uds": pod.socket}
    return basic | {"threads": 1, "precision": "float32"} | settings


@dataclass
class LiveForkServer:
    """`python -m ams_pod.forkserver` as its parent sees it."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    events: list[dict[str, Any]] = field(default_factory=list)
    _half: bytes = b""
    _last_id: int = 0

    def ask(self, argv: list[str], log: Path, env: dict[str, str] | None = None) -> int:
        """Ask for a child; its id."""
        self._last_id += 1
        request = {"id": self._last_id, "argv": argv, "env": env or {}, "stdout": str(log)}
        self.control.sendall(json.dumps(request).encode() + b"\n")
        return self._last_id

    def wait_event(self, event: str, number: int | None = None) -> dict[str, Any]:
        """The event of this kind (about this child), which is taken."""
        while True:
            for found in self.events:
                if found["event"] == event and number in (None, found.get("id")):
                    self.events.remove(found)
                    return found
            data = self.control.recv(1 << 16)
            assert data, f"the fork server ended while {event!r} was awaited"
            *lines, self._half = (self._half + data).split(b"\n")
            self.events += [json.loads(line) for line in lines]

    def start_pod(self, folder: Path, model: Path, name: str, **settings: Any) -> tuple[LivePod, int]:
        """A pod of this name, not ready yet, and its id."""
        folder.mkdir(parents=True, exist_ok=True)
        pod = LivePod(name, folder / f"{name}.sock", folder / f"{name}.log", 0)
        number = self.ask(["serve", *flags(pod_settings(pod, model, settings))], pod.log)
        pod.pid = self.wait_event("started", number)["pid"]
        return pod, number


@contextmanager
def fork_server(log: Path) -> Iterator[LiveForkServer]:
    """A fork server that is ready; it ends with the block, and its children with it."""
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_SECONDS)
    with theirs, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ams_pod.forkserver", "--control-fd", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdout=output,
            stderr=output,
        )
    server = LiveForkServer(process, ours)
    try:
        with ours:
            server.wait_event("ready")
            yield server
        process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()


@contextmanager
def child_pod(server: LiveForkServer, folder: Path, model: Path, name: str, **settings: Any) -> Iterator[LivePod]:
    """A ready pod that the fork server started; killed with the block."""
    pod, number = server.start_pod(folder, model, name, **settings)
    try:
        yield pod.wait_ready()
    finally:
        with suppress(ProcessLookupError):
            os.kill(pod.pid, signal.SIGKILL)
        server.wait_event("exited", number)


@dataclass
class LiveGateway:
    """A gateway process and a client of it."""

    pid: int
    port: int
    log: Path
    url: str
    client: Client


@contextmanager
def gateway_process(folder: Path, *pods: LivePod, **settings: Any) -> Iterator[LiveGateway]:
    """`ams-gateway` in front of these pods, on a free port."""
    backends = [part for pod in pods for part in ("--backend", f"{pod.name}={pod.address}")]
    log_path = folder / "gateway.log"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "from ams_gateway.main import main; main()",
                *backends,
                *flags({"host": "127.0.0.1", "port": port} | settings),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        client = Client(port)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(OSError):
                if client.get("/health").json()["models"]["ready"] == len(pods):
                    break
            assert time.monotonic() < deadline, log_path.read_text()
            time.sleep(0.05)
        yield LiveGateway(process.pid, port, log_path, f"http://127.0.0.1:{port}", client)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@dataclass
class InsideGateway:
    """A gateway in the test's own loop."""

    url: str
    port: int
    registry: StaticRegistry
    client: aiohttp.ClientSession

    async def post(self, path: str, value: Any) -> tuple[int, Any, Any]:
        """(status, JSON body, headers) of a POST."""
        async with self.client.post(self.url + path, json=value) as response:
            return response.status, await response.json(), response.headers


@asynccontextmanager
async def inside_gateway(*pods: LivePod, **settings: Any) -> AsyncIterator[InsideGateway]:
    """A gateway in this process, in front of these pods."""
    values = GatewaySettings(**{"host": "127.0.0.1", "port": 0, "grace_seconds": 1.0} | settings)
    addresses: dict[str, list[str]] = {}
    for pod in pods:
        addresses.setdefault(pod.name, []).append(pod.address)
    async with (
        StaticRegistry(addresses) as registry,
        listen(Gateway(registry, values, request_log=RequestLog(lambda lines: None))) as listening,
        aiohttp.ClientSession() as client,
    ):
        yield InsideGateway(listening.url, listening.port, registry, client)


def events(text: str) -> list[tuple[str, Any]]:
    """(event, data) of a stream's text; comments are left out, [DONE] is data as text."""
    found = []
    for block in text.split("\n\n"):
        kind, data = "message", None
        for line in block.split("\n"):
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                said = line.removeprefix("data: ")
                data = said if said == "[DONE]" else json.loads(said)
        if data is not None:
            found.append((kind, data))
    return found
