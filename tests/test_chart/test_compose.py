"""compose.yaml: what it names is there, and its server takes the command."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ams_cli import manifests
from ams_cli.arguments import command_line
from ams_cli.main import main
from ams_common.keys import Scope, hash_of, read_keys

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVER: dict[str, Any] = COMPOSE["services"]["server"]


def test_every_volume_and_config_that_is_used_is_declared() -> None:
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).is_dir() if source.startswith("./") else source in COMPOSE["volumes"], name
        for config in service.get("configs", []):
            assert config["source"] in COMPOSE["configs"]
    assert {"models", "logs", "hub", "tmp"} <= {volume.split(":")[0] for volume in SERVER["volumes"]}


def test_the_command_is_one_and_serves_all_models() -> None:
    arguments = command_line().parse_args(SERVER["command"][1:])
    assert (arguments.command, arguments.filename, arguments.port) == ("up", ["/manifests"], "5000")
    names = [model.metadata.name for model in manifests.load_manifests([str(ROOT / "examples")]).models]
    assert len(names) == len(list((ROOT / "examples").glob("*.yaml"))) > 5


def test_it_does_not_start_open_by_accident(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The key is made once, where the server looks for keys, and read there."""
    keys = COMPOSE["services"]["keys"]
    assert SERVER["depends_on"] == {"keys": {"condition": "service_completed_successfully"}}
    assert SERVER["environment"]["AMS_KEYS_FILE"] == "/keys/keys.json"
    assert SERVER["environment"]["AMS_ALLOW_ANONYMOUS"] == "${AMS_ALLOW_ANONYMOUS:-}"
    assert set(keys["volumes"]) <= set(SERVER["volumes"])
    assert keys["user"] == SERVER["user"]
    command = [part.replace("=/keys/", f"={tmp_path}/") for part in keys["command"]]
    assert command[0] == "ams"
    assert main(command[1:]) == 0
    key = (tmp_path / "first-key").read_text().strip()
    [stored] = read_keys((tmp_path / "keys.json").read_bytes()).keys
    assert (stored.secrets[0].sha256, set(stored.scopes)) == (hash_of(key), set(Scope))
    assert main(command[1:]) == 0, "a second start changes nothing"
    assert (tmp_path / "first-key").read_text().strip() == key
    told = capsys.readouterr()
    assert key not in told.out + told.err, "logs of containers are kept"


def test_redis_is_there_with_its_profile_only() -> None:
    assert COMPOSE["services"]["redis"]["profiles"] == ["redis"]
    assert SERVER["environment"]["AMS_REDIS_URL"] == "${AMS_REDIS_URL:-}"


def test_it_runs_without_rights_and_only_for_this_machine() -> None:
    assert SERVER["user"] == "1000:1000"
    assert SERVER["read_only"] is True
    assert SERVER["ports"] == ["${AMS_ADDRESS:-127.0.0.1}:${AMS_PORT:-5000}:5000"]


def test_the_build_is_that_of_the_pods_image() -> None:
    text = (ROOT / SERVER["build"]["dockerfile"]).read_text(encoding="utf-8")
    for name in SERVER["build"]["args"]:
        assert re.search(rf"^ARG {name}\b", text, re.MULTILINE)


def test_profiles_are_optional_and_gpus_are_in_a_file_of_their_own() -> None:
    assert {name for name, service in COMPOSE["services"].items() if not service.get("profiles")} == {
        "keys",
        "server",
    }
    gpu = yaml.safe_load((ROOT / "compose.gpu.yaml").read_text(encoding="utf-8"))
    devices = gpu["services"]["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_prometheus_scrapes_the_server() -> None:
    config = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    assert config["scrape_configs"][0]["static_configs"] == [
        {"targets": [f"server:{SERVER['environment']['AMS_METRICS_PORT']}"]}
    ]
