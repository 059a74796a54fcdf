"""How a download tells of itself, and what it costs."""

import json
import socket
import urllib.error

import pytest
from ams_common.lifecycle import Phase
from ams_pod.download.progress import Rate, Tracker
from fakehub.faults import Fault
from fakehub.repository import Bytes, File, Repository, Zeros
from fakehub.server import FakeHub
from test_pod.download_model import MIB, WEIGHTS
from test_pod.download_process import Downloads, until

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]


def test_progress_is_served_while_it_runs(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=2 * MIB))
    process = downloads.start("hf://acme/tiny")

    def stalled() -> bool:
        progress = json.loads(process.get("/progress"))
        return bool(progress.get("download", {}).get("bytesDone", 0) >= 2 * MIB)

    until(stalled)
    progress = json.loads(process.get("/progress"))
    total = len(WEIGHTS) + 24  # config.json and tokenizer.json
    assert progress["phase"] == "downloading"
    assert progress["percent"] == pytest.approx(100 * 2 / 3, abs=0.5)
    assert progress["download"]["bytesTotal"] == total
    assert progress["download"]["file"] == "model.safetensors"
    metrics = process.get("/metrics")
    values = {line.split()[0]: float(line.split()[1]) for line in metrics.splitlines() if line[0] != "#"}
    assert values["ams_download_size_bytes"] == total
    assert values["ams_download_received_bytes_total"] >= 2 * MIB
    assert values["ams_download_seconds_total"] > 0
    with pytest.raises(urllib.error.HTTPError) as caught:
        process.get("/other")
    with caught.value as answer:
        assert answer.code == 404
    hub.release()
    outcome = process.wait()
    assert outcome.status == 0
    assert len(outcome.progress) >= 3


def test_a_progress_port_that_is_taken_stops_nothing(downloads: Downloads, commit: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        outcome = downloads.run("hf://acme/tiny", "--progress-port", str(taken.getsockname()[1]))
    assert outcome.status == 0
    assert "no progress page" in outcome.stderr


def test_no_progress_port_is_no_server(downloads: Downloads, commit: str) -> None:
    outcome = downloads.run("hf://acme/tiny", "--progress-port", "-1")
    assert outcome.status == 0
    assert "/progress" not in outcome.stderr


def test_a_gibibyte_takes_little_memory(hub: FakeHub, downloads: Downloads) -> None:
    weights = File("model.safetensors", Zeros(1 << 30))
    hub.add(Repository("acme/large")).commit_files(
        {"config.json": File("config.json", Bytes(b"{}")), weights.path: weights}
    )
    outcome = downloads.run("hf://acme/large")
    assert outcome.status == 0
    if outcome.peak_bytes is None:
        pytest.skip("only Linux tells a process's peak memory")
    assert outcome.peak_bytes < 300 * MIB


# counting, with time as an argument


def test_a_rate_follows_and_is_smooth() -> None:
    rate = Rate()
    for step in range(101):
        rate.update(1000, step / 10)
    assert rate.per_second == pytest.approx(10_000, rel=0.01)
    for step in range(101, 202):
        rate.update(0, step / 10)
    assert rate.per_second is not None
    assert rate.per_second < 2_000


def test_percent_rate_and_eta() -> None:
    now = [0.0]
    tracker = Tracker(lambda: now[0])
    tracker.begin(Phase.DOWNLOADING, done=1000, total=5000)
    assert tracker.snapshot().percent == 20.0
    for _ in range(10):
        now[0] += 0.5
        tracker.add(100, received=True)
    progress = tracker.snapshot()
    assert progress.percent == 40.0
    assert progress.download is not None
    assert progress.download.bytesDone == 2000
    assert progress.download.bytesPerSecond == pytest.approx(200, rel=0.2)
    assert progress.eta_seconds == pytest.approx(3000 / 200, rel=0.2)


def test_an_empty_download_is_complete_and_an_unknown_one_has_no_percent() -> None:
    tracker = Tracker(lambda: 0.0)
    tracker.begin(Phase.DOWNLOADING, total=0)
    assert tracker.snapshot().percent == 100.0
    tracker.begin(Phase.DOWNLOADING)
    assert tracker.snapshot().percent is None
