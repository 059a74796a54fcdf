"""What whoever is on call sees of a cluster: dashboards with data, and the alert of each fault and no other.

Debian's Prometheus runs beside the cluster and reaches pods by their addresses. The rules are the chart's, sixty times
faster: what takes half an hour takes half a minute.
"""

import contextlib
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_server import Prometheus, Target, needs_prometheus, prometheus
from test_cluster.conftest import ROOT, Installed
from test_monitoring import faster
from test_monitoring.test_dashboards import has_data, shows
from test_monitoring.test_faults import Fired, clients, fired

from dashboards.render import BOARDS

pytestmark = needs_prometheus
LONG = {"contextTokens": 2048}
MODELS: dict[str, dict[str, Any]] = {
    "seen": {},
    "hasty": {**LONG, "requestTimeoutSeconds": 1},
    "narrow": {**LONG, "concurrentRequests": 1, "queuedRequests": 2},
    "crowded": {**LONG, "concurrentRequests": 1, "queuedRequests": 500},
}
Watched = tuple[Installed, Prometheus, float]  # and since when
_PATIENCE_SECONDS = 120.0
# A leader that the API server keeps waiting for 10 s steps down, and another one may begin 15 s after its last renewal:
# on a busy machine that happens, is no fault, and five minutes leave plenty of room for it. Five seconds don't.
_TAKEOVER_SECONDS = 30
_LOAD_SECONDS = float(os.environ.get("AMS_E2E_LOAD_SECONDS", "20"))  # longer for pictures


def targets(product: Installed) -> list[Target]:
    """What the chart's PodMonitors would find; files/prometheus-scrape.yaml says the same for a plain Prometheus."""
    found = []
    for pod in json.loads(product.kubectl("get", "pods", "-A", "-o", "json"))["items"]:
        address, phase = pod["status"].get("podIP"), pod["status"].get("phase")
        labels = pod["metadata"].get("labels", {})
        given = {"namespace": pod["metadata"]["namespace"], "pod": pod["metadata"]["name"]}
        spec = pod["spec"]
        ports = {
            port.get("name"): port["containerPort"]
            for container in (*spec.get("initContainers", ()), *spec["containers"])
            for port in container.get("ports", ())
        }
        model = labels.get("aimodelserver.io/model")
        wanted = {"Running": "http", "Pending": "progress"}.get(phase, "") if model is not None else "metrics"
        ours = model is not None or labels.get("app.kubernetes.io/name") == "ai-model-server"
        if address and ours and wanted in ports:
            found.append(Target(f"{address}:{ports[wanted]}", given | ({"model": model} if model else {})))
    return found


@contextlib.contextmanager
def followed(product: Installed, server: Prometheus) -> Iterator[None]:
    """Pods come and go; Prometheus follows."""
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(2):
            with contextlib.suppress(AssertionError):
                server.scrape(targets(product))

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def asking(product: Installed, model: str, tokens: int, *, stream: bool = False) -> Callable[[], None]:
    body = {"prompt": "hello", "temperature": 0, "max_new_tokens": tokens, "ignore_eos": True, "stream": stream}
    data = json.dumps(body).encode()

    def once() -> None:
        head = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{product.gateway}/generate/{model}", data, head)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()

    return once


def told_by(server: Prometheus, since: float) -> Fired:
    """What fired, but for volumes: on this cluster they are folders of a disk that may be full of other things."""
    found = fired(server, max(1.0, time.time() - since))
    return {each for each in found if each[0] != "AMSVolumeNearlyFull"}


def operator_logs(product: Installed) -> str:
    """The end of what operators said: why nobody led, for instance."""
    operators = "app.kubernetes.io/component=operator"
    return product.kubectl("logs", "-l", operators, "--prefix", "--tail=40") + product.kubectl("get", "pods", "-A")


@pytest.fixture(scope="module")
def watched(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Four models that answer, and a Prometheus that has watched them start under an operator that leads."""
    folder = tmp_path_factory.mktemp("seen")
    installed.kubectl("delete", "mdep", "--all", "--wait=true", timeout=180)
    rules = faster.rules_file({"AMSNoLeader": _TAKEOVER_SECONDS})
    with prometheus(folder, rules=rules) as server, followed(installed, server):
        server.until("sum(ams_operator_leads) == 1")
        for name, limits in MODELS.items():
            installed.apply(name, "hf://acme/tiny", limits=limits, cache={"size": "1Gi"})
        for name in MODELS:
            installed.wait_ready(name)
        server.until(f"count(ams_pod_running_requests) == {len(MODELS)}")
        server.until("absent(ALERTS{alertname=~'AMSNoLeader|AMSModelNotReady'})")  # they may have started slowly
        yield installed, server, time.time()
        installed.kubectl("delete", "mdep", "--all", "--wait=true", timeout=180)
        installed.kubectl("scale", "deployment/ams-ai-model-server-operator", "--replicas=2")
        installed.kubectl("rollout", "status", "deployment/ams-ai-model-server-operator", "--timeout=60s")


def test_every_panel_shows_data_or_says_why_not(watched: Watched) -> None:
    product, server, since = watched
    load = [asking(product, "seen", 16), asking(product, "seen", 64, stream=True), asking(product, "absent", 8)]
    with contextlib.ExitStack() as stack:
        for each in load:
            stack.enter_context(clients(1, each, pause=0.2))
        time.sleep(_LOAD_SECONDS)
        panels = [(board, panel) for board in BOARDS for panel in board.panels]
        without = [
            f"{board.uid} {panel.title}: {query.expr}"
            for board, panel in panels
            for query in panel.queries
            if not panel.empty and not has_data(server, panel, query.expr)
        ]
        excused = {f"{board.uid} {panel.title}" for board, panel in panels if panel.empty and shows(server, panel)}
        if folder := os.environ.get("AMS_PICTURES"):
            from dashboards.pictures import write_all

            write_all(server.url, Path(ROOT, folder), int(_LOAD_SECONDS) + 60, time.time())
    assert without == []
    assert {"ams-model Last start", "ams-operator Starts by step, mean"} <= excused
    steps = {each["metric"]["phase"] for each in server.query("ams_operator_startup_seconds_count > 0")}
    assert steps == {"schedule", "pull", "download", "load", "total"}
    assert server.value("max(max_over_time(ams_operator_queue_age_seconds[1m]))") < 30  # of those that wait too
    assert told_by(server, since) == set(), (server.alerts(), operator_logs(product))


def test_each_fault_raises_its_alert_and_nothing_else(watched: Watched) -> None:
    product, server, since = watched
    expected: Fired = {
        ("AMSModelNotReady", "ams/hopeless"),
        ("AMSRequestsFail", "hasty"),
        ("AMSQueueFull", "narrow"),
        ("AMSFirstTokenSlow", "crowded"),
    }
    product.apply("hopeless", "hf://acme/absent")
    with (
        clients(2, asking(product, "hasty", 2000)),
        clients(8, asking(product, "narrow", 15)),
        clients(40, asking(product, "crowded", 10)),
    ):
        began, came = time.monotonic(), dict.fromkeys(expected, 0.0)
        while (
            missing := expected - (found := told_by(server, since))
        ) and time.monotonic() - began < _PATIENCE_SECONDS:
            for each in missing:
                came[each] = time.monotonic() - began
            time.sleep(1)
        print("\n".join(f"{name} {about}: {seconds:.0f} s" for (name, about), seconds in came.items()))
        assert found == expected, (server.alerts(), operator_logs(product))
    product.kubectl("scale", "deployment/ams-ai-model-server-operator", "--replicas=0")
    server.until('ALERTS{alertname="AMSNoLeader",alertstate="firing"}', 60 + _TAKEOVER_SECONDS)
    assert told_by(server, since) - expected == {("AMSNoLeader", "")}, server.alerts()
