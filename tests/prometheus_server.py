"""A real Prometheus for tests: it scrapes what it is told, each second, and is asked by its HTTP API."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

_START_SECONDS = 30.0

needs_prometheus = pytest.mark.skipif(shutil.which("prometheus") is None, reason="there is no prometheus")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")


@dataclass(frozen=True)
class Target:
    """`address` is host:port; `labels` are as a PodMonitor would give them."""

    address: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Prometheus:
    url: str
    targets_file: Path

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """The series of an instant query."""
        return self._get("query", query=expression, **({"time": f"{at:.3f}"} if at is not None else {}))["result"]

    def value(self, expression: str) -> float:
        """Of a query for one series."""
        (series,) = self.query(expression)
        return float(series["value"][1])

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        return self._get("query_range", query=expression, start=start, end=end, step=step)["result"]

    def alerts(self) -> list[dict[str, Any]]:
        return self._get("alerts")["alerts"]

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {each["labels"]["alertname"] for each in self.alerts() if each["state"] == "firing"}

    def scrape(self, targets: Sequence[Target]) -> None:
        """These, from now on."""
        groups = [{"targets": [each.address], "labels": dict(each.labels)} for each in targets]
        new = self.targets_file.with_suffix(".new")
        new.write_text(json.dumps(groups))
        os.replace(new, self.targets_file)

    def until_up(self, count: int) -> None:
        """So many targets answered."""
        self.until(f"sum(up) >= {count}")

    def until(self, expression: str, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Until an instant query has a result, which is given."""
        deadline = time.monotonic() + seconds
        while not (found := self.query(expression)):
            assert time.monotonic() < deadline, f"{expression} has no result; up: {self.query('up')}"
            time.sleep(0.2)
        return found

    def _get(self, what: str, **query: object) -> Any:
        data = urllib.parse.urlencode({name: str(value) for name, value in query.items()}).encode()
        request = urllib.request.Request(f"{self.url}/api/v1/{what}", data if query else None)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode(errors='replace')[:2000]}") from None


@contextlib.contextmanager
def prometheus(
    folder: Path,
    targets: Sequence[Target] = (),
    *,
    rules: Mapping[str, Any] | None = None,
    scrape_configs: Sequence[Mapping[str, Any]] = (),
    interval: str = "1s",
) -> Iterator[Prometheus]:
    """One that runs until the block ends; `rules` is a rules file, `scrape_configs` are beside the targets."""
    folder.mkdir(parents=True, exist_ok=True)
    targets_file = folder / "targets.json"
    config = {
        "global": {"scrape_interval": interval, "evaluation_interval": interval, "scrape_timeout": interval},
        "scrape_configs": [
            {"job_name": "tests", "file_sd_configs": [{"files": [str(targets_file)], "refresh_interval": "1s"}]},
            *scrape_configs,
        ],
    }
    if rules is not None:
        (folder / "rules.yaml").write_text(yaml.safe_dump(dict(rules)))
        config["rule_files"] = [str(folder / "rules.yaml")]
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = Prometheus(f"http://127.0.0.1:{port}", targets_file)
    server.scrape(targets)
    log_path = folder / "prometheus.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [
                *(
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                ),
                *(f"--web.listen-address=127.0.0.1:{port}", "--query.lookback-delta=30s"),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{server.url}/-/ready", timeout=2):
                break
            waits = time.monotonic() < deadline and process.poll() is None
            assert waits, log_path.read_text()
            time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(30)
