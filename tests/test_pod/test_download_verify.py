"""The second start: quick, without the network where it can be, and never with wrong bytes."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from ams_common.source import parse_source
from ams_pod.layout import find_model
from fakehub.faults import Fault
from fakehub.repository import Repository
from fakehub.server import FakeHub
from test_pod.download_model import READ, TINY, WEIGHTS
from test_pod.download_process import Downloads

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]

SHA256 = {name: hashlib.sha256(TINY[name]).hexdigest() for name in READ}


@pytest.fixture
def folder(downloads: Downloads, commit: str) -> Path:
    """The finished folder of acme/tiny."""
    return downloads.run("hf://acme/tiny").folder


def test_a_pinned_commit_needs_no_hub(hub: FakeHub, downloads: Downloads, folder: Path, commit: str) -> None:
    hub.requests.clear()
    outcome = downloads.run(f"hf://acme/tiny@{commit}")
    assert outcome.folder == folder
    assert hub.requests == []
    assert [step["phase"] for step in outcome.progress] == ["ready"]


def test_a_finished_model_is_found_without_heavy_imports(downloads: Downloads, folder: Path, commit: str) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from ams_pod.download.main import run;"
        f"run(['--source', 'hf://acme/tiny@{commit}', '--models-dir', {str(downloads.models)!r}]);"
        "print(sorted({'huggingface_hub', 'torch', 'prometheus_client', 'aiohttp', 'asyncio'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert shown.stdout.splitlines() == [str(folder), "[]"]


def test_a_branch_is_asked_for_and_nothing_is_fetched_again(hub: FakeHub, downloads: Downloads, folder: Path) -> None:
    hub.requests.clear()
    assert downloads.run("hf://acme/tiny").folder == folder
    assert [asked.where for asked in hub.requests] == ["api"]


@pytest.mark.parametrize(
    "environment", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}], ids=["gone", "offline"]
)
def test_without_the_hub_what_is_there_is_used(
    downloads: Downloads, folder: Path, commit: str, environment: dict[str, str]
) -> None:
    outcome = downloads.run("hf://acme/tiny", **environment)
    assert outcome.folder == folder
    assert f"Going on with commit {commit}" in outcome.stderr
    assert downloads.run("hf://acme/tiny", "--verify", "full", **environment).folder == folder


@pytest.mark.parametrize("status", [429, 500])
def test_a_hub_in_trouble_is_not_waited_for(hub: FakeHub, downloads: Downloads, folder: Path, status: int) -> None:
    hub.fail(Fault("status", "api", status=status, retry_after=60, times=-1))
    assert downloads.run("hf://acme/tiny").folder == folder


def test_another_revision_is_no_substitute(downloads: Downloads, folder: Path) -> None:
    outcome = downloads.run("hf://acme/tiny@v2", "--retry-seconds", "0", HF_ENDPOINT="http://127.0.0.1:9")
    assert outcome.reason == "HubUnreachable"


def test_a_token_that_lost_its_right_is_not_ignored(hub: FakeHub, downloads: Downloads, folder: Path) -> None:
    assert downloads.run("hf://acme/tiny", HF_TOKEN="hf_revoked").reason == "BadToken"


# what is wrong is fetched again, and only that


@pytest.mark.parametrize("name", sorted(READ))
@pytest.mark.parametrize("harm", ["lost", "cut"])
def test_a_broken_file_is_fetched_again(
    hub: FakeHub, downloads: Downloads, folder: Path, commit: str, name: str, harm: str
) -> None:
    if harm == "lost":
        (folder / name).unlink()
    else:
        os.truncate(folder / name, 1)
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}").folder == folder
    assert (folder / name).read_bytes() == TINY[name]
    assert {asked.where for asked in hub.requests if asked.sent} == {name}


def test_full_finds_bytes_that_changed_silently(hub: FakeHub, downloads: Downloads, folder: Path, commit: str) -> None:
    target = folder / "model.safetensors"
    before = target.stat()
    with open(target, "r+b") as file:
        file.seek(1000)
        file.write(b"rot")
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert downloads.run(f"hf://acme/tiny@{commit}").status == 0
    assert target.read_bytes() != WEIGHTS  # size and time look right, which is all that quick looks at
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}", "--verify", "full").folder == folder
    assert target.read_bytes() == WEIGHTS
    assert {asked.where for asked in hub.requests if asked.sent} == {"model.safetensors"}


def test_full_needs_no_hub_when_all_is_right(hub: FakeHub, downloads: Downloads, folder: Path, commit: str) -> None:
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}", "--verify", "full").folder == folder
    assert hub.requests == []


def test_a_broken_file_without_the_hub_is_a_failure(downloads: Downloads, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    outcome = downloads.run("hf://acme/tiny", "--retry-seconds", "0", HF_ENDPOINT="http://127.0.0.1:9")
    assert outcome.reason == "HubUnreachable"


def test_a_restored_backup_is_hashed_once_and_kept(
    hub: FakeHub, downloads: Downloads, folder: Path, commit: str
) -> None:
    restored = downloads.models.with_name("restored")
    shutil.copytree(downloads.models, restored, copy_function=shutil.copyfile)  # new times
    shutil.rmtree(downloads.models)
    restored.rename(downloads.models)
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}").folder == folder
    assert hub.requests == []
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["model.safetensors"]["mtime_ns"] == (folder / "model.safetensors").stat().st_mtime_ns


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1}'])
def test_a_broken_manifest_costs_no_weights(
    hub: FakeHub, downloads: Downloads, folder: Path, commit: str, content: bytes
) -> None:
    (folder / "manifest.json").write_bytes(content)
    hub.requests.clear()
    assert downloads.run(f"hf://acme/tiny@{commit}").folder == folder
    assert not hub.downloads("model.safetensors")


def test_a_folder_half_way_back_to_partial_is_taken_up(
    hub: FakeHub, downloads: Downloads, folder: Path, commit: str
) -> None:
    (folder / "manifest.json").unlink()
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir()
    (partial / "junk").write_text("old")
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) is None
    assert downloads.run("hf://acme/tiny").folder == folder
    assert not partial.exists()
    assert not (folder / "junk").exists()


# the lock


def test_a_lock_that_matches_is_quiet(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    lock = json.dumps(SHA256)
    folder = downloads.run("hf://acme/tiny", "--lock", lock).folder
    assert downloads.run(f"hf://acme/tiny@{commit}", "--lock", lock).folder == folder


def test_a_lock_is_compared_before_any_weight_is_fetched(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    outcome = downloads.run("hf://acme/tiny", "--lock", json.dumps({"model.safetensors": "0" * 64}))
    assert outcome.reason == "LockMismatch"
    assert not hub.downloads("model.safetensors")


def test_small_files_are_compared_too(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    lock = {**SHA256, "config.json": "0" * 64}
    assert downloads.run("hf://acme/tiny", "--lock", json.dumps(lock)).reason == "LockMismatch"
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) is None


def test_a_lock_holds_for_what_is_there_already(downloads: Downloads, folder: Path, commit: str) -> None:
    for source in ("hf://acme/tiny", f"hf://acme/tiny@{commit}"):
        outcome = downloads.run(source, AMS_LOCK=json.dumps({"model.safetensors": "0" * 64}))
        assert outcome.reason == "LockMismatch"


def test_a_lock_that_is_none_is_told(downloads: Downloads, commit: str) -> None:
    assert downloads.run("hf://acme/tiny", "--lock", "model.safetensors").reason == "InvalidLock"


# what serve is told


def test_find_model_knows_only_what_is_finished(hub: FakeHub, tmp_path: Path) -> None:
    for source in ("hf://acme/tiny", "hf://acme/tiny@" + "0" * 40, "wheel://a==1/b", "pvc://claim/a", "file:///nope"):
        assert find_model(parse_source(source), tmp_path) is None
    (tmp_path / "config.json").write_text("{}")
    assert find_model(parse_source(f"file://{tmp_path}"), tmp_path) == tmp_path
    unfinished = hub.add(Repository("acme/tiny")).commit(TINY)
    (tmp_path / "acme--tiny" / unfinished).mkdir(parents=True)
    assert find_model(parse_source(f"hf://acme/tiny@{unfinished}"), tmp_path) is None
