"""No Python file of the current folder is ever run: people clone model repositories, and start us inside of them."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ams_cli.processes.launcher import PROGRAMS

ROOT = Path(__file__).parents[2]
TRAPS = (
    "secrets",
    "types",
    "queue",
    "token",
    "random",
    "json",
    "numpy",
    "torch",
    "msgspec",
    "aiohttp",
    "ams_common",
    "pip",
)
COMMANDS = {
    "ams": (str(Path(sys.executable).with_name("ams")), "--help"),
    "download": (*PROGRAMS.pod, "download", "--help"),
    "serve": (*PROGRAMS.pod, "serve", "--help"),
    "fork server": (*PROGRAMS.forkserver, "--help"),
    "pip": (sys.executable, "-P", "-m", "pip", "--version"),
}


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder where importing anything leaves a mark."""
    for name in TRAPS:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'a').write({name!r})\n")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_a_command_runs_nothing_of_its_folder(command: tuple[str, ...], trapped: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(command, cwd=trapped, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert not (trapped / "sprung").exists()


def test_the_traps_work(trapped: Path) -> None:
    subprocess.run([sys.executable, "-m", "ams_pod", "serve", "--help"], cwd=trapped, capture_output=True, timeout=100)
    assert (trapped / "sprung").exists()


def test_every_python_that_is_started_has_a_safe_path() -> None:
    found = 0
    for package in ("common", "gateway", "modelpod", "operator", "cli"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.List | ast.Tuple)
                    and node.elts
                    and ast.unparse(node.elts[0]) == "sys.executable"
                ):
                    assert ast.unparse(node.elts[1]) == "'-P'", f"{path}:{node.lineno}"
                    found += 1
    assert found >= 4
