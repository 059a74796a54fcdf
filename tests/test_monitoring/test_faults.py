"""Thirteen faults put into a running product: each raises its alert, on what it is about, and nothing else fires.

The rules are the chart's, sixty times faster: what takes half an hour takes half a minute.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.keys import KeyFile, Secret, StoredKey, hash_of, write_keys
from ams_kube.client import Client
from certificates import Authority
from kube_cluster import NAMESPACES, ControlPlane, control_plane, make_namespace
from models import container, create, model, pod_of, report
from operator_process import operating
from prometheus_server import Prometheus, Target, needs_prometheus, prometheus
from test_monitoring import faster, product
from test_monitoring.whole import HELLO, start_model, tell_of_gateway, with_client

__all__ = ["control_plane"]
pytestmark = [needs_prometheus, pytest.mark.timeout(600)]
Fired = set[tuple[str, str]]

_KEYS = {"team": "ams-key-of-team", "spender": "ams-key-of-spender"}
_SLOW = {"concurrent_requests": 1, "max_new_tokens": 400}
PODS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "narrow": {**_SLOW, "queued_requests": 2},
    "crowded": {**_SLOW, "queued_requests": 500},
    "hasty": {"request_timeout_seconds": 0.5, "max_new_tokens": 400},
    "cramped": {},
    "hung": {"stall_seconds": 3},
    "brimful": {},
}
_PATIENCE_SECONDS = 150.0


def subject(labels: dict[str, str]) -> str:
    """What an alert is about."""
    return labels.get("key") or labels.get("model") or labels.get("resource") or labels.get("pod") or ""


def fired(server: Prometheus, since: float) -> Fired:
    """All that fired since that Unix time."""
    found = server.query(f'max_over_time(ALERTS{{alertstate="firing"}}[{max(1, int(time.time() - since))}s])')
    return {(each["metric"]["alertname"], subject(each["metric"])) for each in found}


def ask(server: product.Server, name: str, tokens: int, key: str = "team", timeout: float = 90) -> Callable[[], None]:
    body = {**HELLO, "max_new_tokens": tokens}
    head = {"Authorization": f"Bearer {_KEYS[key]}"}

    def once() -> None:
        with contextlib.suppress(OSError):
            server.post(f"/generate/{name}", body, head, timeout)

    return once


@contextlib.contextmanager
def clients(count: int, act: Callable[[], None], pause: float = 0.05) -> Iterator[None]:
    """So many at once, again and again until the block ends."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(pause):
            act()

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()


class Downloads:
    """`GET /progress` of two pods on addresses of their own: one stands still, one would take hours."""

    def __init__(self) -> None:
        self.port = product.free_port()
        self._began = time.monotonic()
        self._servers = [self._serve("127.0.0.2", 0), self._serve("127.0.0.3", 1000)]

    def _serve(self, host: str, rate: int) -> ThreadingHTTPServer:
        def progress() -> dict[str, Any]:
            done = 1_000_000 + int(rate * (time.monotonic() - self._began))
            download = {"bytesDone": done, "bytesTotal": 10**10, "bytesPerSecond": float(rate), "etaSeconds": 90_000.0}
            return {"phase": "downloading", "percent": 1.0, "download": download}

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = msgspec.json.encode(progress())
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: object) -> None:
                pass

        server = ThreadingHTTPServer((host, self.port), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


async def begin_downloads(kube: Client, home: str) -> None:
    running = container("download", running={"startedAt": "2026-01-01T00:00:00Z"})
    for name, address in (("standing", "127.0.0.2"), ("crawling", "127.0.0.3")):
        await create(kube, home, name, model())
        pod = await pod_of(kube, home, name)
        addresses = {"podIP": address, "podIPs": [{"ip": address}]}
        await report(kube, pod, phase="Pending", initContainerStatuses=[running], **addresses)


@contextlib.contextmanager
def half_a_body(port: int, length: int) -> Iterator[None]:
    """A client that sends nearly all of its body over TLS, and then nothing."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        head = f"POST /generate/tiny HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        connection.sendall(head.encode() + b" " * (length - 1000))
        yield


def until_it_leads(port: int) -> None:
    """Rules that run 60 times faster have no time for an operator that is on its way to the Lease."""
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            if b"\nams_operator_leads 1" in answer.read():
                return
        assert time.monotonic() < deadline, "the operator doesn't lead"
        time.sleep(0.2)


@contextlib.contextmanager
def product_with_faults(folder: Path, llama: Path, plane: ControlPlane) -> Iterator[Any]:
    """All of it while it is well; gives what the test needs to break it."""
    downloads = Downloads()
    secrets = {name: (Secret(sha256=hash_of(key)),) for name, key in _KEYS.items()}
    keys = (
        StoredKey(id="k-team", name="team", secrets=secrets["team"]),
        StoredKey(id="k-spender", name="spender", secrets=secrets["spender"], monthly_tokens=300),
    )
    (folder / "keys.json").write_bytes(write_keys(KeyFile(keys=keys)))
    cert, key = Authority().pair(days=3).write(folder)
    ports = [product.free_port(), product.free_port()]
    with contextlib.ExitStack() as stack:
        stack.callback(downloads.close)
        pods: dict[str, product.Server] = {}
        for name, settings in PODS.items():
            (folder / name / "faults").mkdir(parents=True)
            if settings.get("concurrent_requests") == 1 or name == "hasty":
                (folder / name / "faults" / "slow").touch()
            program = (str(product.FAULTY), str(folder / name / "faults"))
            pods[name] = stack.enter_context(
                product.pod(folder / name, llama, name, ready="/health", program=program, **settings)
            )
        for pod in pods.values():
            pod.until("/ready")
        backends = {name: pod.url for name, pod in pods.items()}
        gateway = stack.enter_context(
            product.gateway(folder, backends, keys_file=folder / "keys.json", metrics_port=ports[0])
        )
        home = asyncio.run(with_client(plane, make_namespace))
        asyncio.run(with_client(plane, lambda kube: tell_of_gateway(kube, home, ports[0])))
        operator = stack.enter_context(
            operating(
                plane, folder / "operator.log", home, gateway_service=f"{home}/gateway", progress_port=downloads.port
            )
        )
        asyncio.run(with_client(plane, lambda kube: start_model(kube, home, failing=())))
        stack.callback(lambda: asyncio.run(with_client(plane, lambda kube: kube.delete(NAMESPACES, None, home))))
        small = stack.enter_context(
            product.gateway(
                folder / "small", {"tiny": pods["tiny"].url}, scheme="https", metrics_port=ports[1],
                body_memory_bytes=1 << 20, body_timeout_seconds=600, tls_cert=cert, tls_key=key,
            )
        )  # fmt: skip
        until_it_leads(operator.metrics_port)
        well = [
            *(product.pod_target(pod, name) for name, pod in pods.items()),
            Target(f"127.0.0.1:{ports[0]}", {"namespace": "ams", "pod": "gateway-0"}),
            Target(f"127.0.0.1:{operator.metrics_port}", {"namespace": "ams", "pod": "operator-0"}),
        ]
        ending = Target(f"127.0.0.1:{ports[1]}", {"namespace": "ams", "pod": "gateway-1"})
        yield gateway, small, operator, home, well, ending


def test_each_fault_raises_its_alert_and_nothing_else(control_plane: ControlPlane, llama: Path, tmp_path: Path) -> None:
    with (
        product_with_faults(tmp_path, llama, control_plane) as (gateway, small, operator, home, well, ending),
        prometheus(tmp_path / "prometheus", well, rules=faster.rules_file()) as server,
        contextlib.ExitStack() as faults,
    ):
        server.until_up(len(well))
        # Prometheus begins to scrape five seconds after its start, and so long is a minute of these rules.
        server.until('absent(ALERTS{alertstate="firing"})')
        since = time.time() + 2
        with clients(2, ask(gateway, "tiny", 8)):
            time.sleep(15)
        assert fired(server, since) == set(), server.alerts()

        server.scrape([*well, ending])
        for name, fault in (("cramped", "oom"), ("hung", "hang"), ("brimful", "full")):
            (tmp_path / name / "faults" / fault).touch()
        asyncio.run(with_client(control_plane, lambda kube: create(kube, home, "hopeless", model("hf://acme/absent"))))
        asyncio.run(with_client(control_plane, lambda kube: begin_downloads(kube, home)))
        faults.enter_context(half_a_body(small.port, 1_040_000))
        faults.enter_context(clients(1, ask(gateway, "tiny", 8, "spender"), pause=0.3))
        faults.enter_context(clients(6, ask(gateway, "narrow", 20)))
        faults.enter_context(clients(30, ask(gateway, "crowded", 20)))
        faults.enter_context(clients(4, ask(gateway, "hasty", 100)))
        faults.enter_context(clients(1, ask(gateway, "hung", 8, timeout=300)))
        for _ in range(3):
            ask(gateway, "cramped", 8)()
        expected: Fired = {
            ("AMSModelNotReady", f"{home}/hopeless"),
            ("AMSDownloadStuck", f"{home}/standing"),
            ("AMSDownloadSlow", f"{home}/crawling"),
            ("AMSOutOfMemory", "cramped"),
            ("AMSRequestsFail", "hasty"),
            ("AMSFirstTokenSlow", "crowded"),
            ("AMSQueueFull", "narrow"),
            ("AMSGatewaySaturated", "body-memory"),
            ("AMSVolumeNearlyFull", "brimful"),
            ("AMSWatchdogFired", "hung"),
            ("AMSKeyNearBudget", "spender"),
            ("AMSCertificateEnds", "gateway-1"),
        }
        began, came = time.monotonic(), dict.fromkeys(expected, 0.0)
        while (missing := expected - (found := fired(server, since))) and time.monotonic() - began < _PATIENCE_SECONDS:
            for each in missing:
                came[each] = time.monotonic() - began
            time.sleep(1)
        print("\n".join(f"{name} {about}: {seconds:.0f} s" for (name, about), seconds in came.items()))
        assert found == expected, server.alerts()

        operator.kill()
        server.until('ALERTS{alertname="AMSNoLeader",alertstate="firing"}', 60)
        assert fired(server, since) == expected | {("AMSNoLeader", "")}
        (tmp_path / "hung" / "faults" / "hang").unlink()
