"""Logs of a model pod as one JSON object a line, as gateway and operator write theirs."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ams_pod.download import report


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    report.say_in("console")


def test_what_a_download_says(capsys: pytest.CaptureFixture[str]) -> None:
    report.say("it begins")
    report.say_in("json")
    report.say('a "file" of 3 bytes:\nb%s')
    console, line = capsys.readouterr().err.splitlines()
    assert console == "ams-pod download: it begins"
    told = json.loads(line)
    assert told.pop("time").endswith("Z")
    assert told == {"level": "info", "logger": "ams_pod.download", "message": 'a "file" of 3 bytes:\nb%s'}


def test_what_a_pod_says(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"architectures": ["NobodysModel"]}')
    command = [
        sys.executable, "-m", "ams_pod", "serve", "--name", "m", "--source", f"file://{tmp_path}/model", "--port", "0",
        "--host", "127.0.0.1", "--log-format", "json", "--models-dir", str(tmp_path), "--termination-log",
        str(tmp_path / "termination"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert any(each.get("logger", "").startswith("ams_pod.serve") for each in told), done.stderr
