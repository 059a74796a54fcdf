"""Folders that an earlier version converted from a GGUF file: told apart, and converted again."""

import errno
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.reasons import Reason
from ams_pod.download.failures import Failed
from ams_pod.download.jobs import Context, ensure_published
from ams_pod.download.lease import Contender, FolderLease
from ams_pod.download.manifest import CONVERSION, Manifest, entry_of, hash_file, read_manifest, write_manifest
from ams_pod.download.partial import Partial
from ams_pod.download.progress import Tracker
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf
from test_pod.download_process import Downloads

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", settings=settings)


def is_right(folder: Path) -> bool:
    return json.loads((folder / "config.json").read_text())["rope_parameters"]["rope_type"] == "linear"


def spoil(folder: Path) -> None:
    """Make it what an earlier version left, intact by its manifest: without the scaling, and with another file."""
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.conversion == CONVERSION
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e5}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "of-then.json").write_text("{}")
    changed = {name: entry_of(folder / name, hash_file(folder / name)) for name in ("config.json", "of-then.json")}
    write_manifest(folder, msgspec.structs.replace(manifest, files={**manifest.files, **changed}))
    known = json.loads((folder / "manifest.json").read_text())
    del known["conversion"]
    (folder / "manifest.json").write_text(json.dumps(known))


def leftovers(downloads: Downloads) -> list[str]:
    return [path.name for path in downloads.models.rglob("*") if path.name.endswith((".partial", ".replaced"))]


def test_a_file_of_this_machine_is_converted_again(downloads: Downloads, gguf: Path) -> None:
    folder = downloads.run(f"file://{gguf}").folder
    spoil(folder)
    outcome = downloads.run(f"file://{gguf}")
    assert outcome.folder == folder
    assert is_right(folder)
    assert not (folder / "of-then.json").exists()
    assert not leftovers(downloads)
    assert [step["phase"] for step in downloads.run(f"file://{gguf}").progress] == ["ready"], "once"


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_of_a_hub_is_converted_again(hub: FakeHub, downloads: Downloads, gguf: Path, pinned: bool) -> None:
    commit = hub.add(Repository("acme/quantized")).commit({"tiny.gguf": gguf})
    source = f"hf://acme/quantized{f'@{commit}' if pinned else ''}?file=tiny.gguf"
    folder = downloads.run(source).folder
    spoil(folder)
    away = downloads.run(source, "--retry-seconds", "1", HF_ENDPOINT="http://127.0.0.1:9")
    assert (away.status, away.folder) == (0, folder), "what is there is better than nothing"
    assert "as an earlier version converted it" in away.stderr
    assert not is_right(folder)
    assert downloads.run(source).folder == folder
    assert is_right(folder)
    assert not leftovers(downloads)
    asked = len(hub.downloads("tiny.gguf"))
    assert downloads.run(source).folder == folder
    assert len(hub.downloads("tiny.gguf")) == asked, "once"


def test_a_file_that_is_refused_now_is_served_no_more(downloads: Downloads, tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "tiny.gguf", settings={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0})
    folder = downloads.run(f"file://{path}").folder
    spoil(folder)
    before = path.stat()
    other = make_gguf(tmp_path / "other.gguf", settings={"rope.scaling.type": "linexr", "rope.scaling.factor": 4.0})
    shutil.copyfile(other, path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = downloads.run(f"file://{path}")
    assert outcome.reason == "ConversionFailed"
    assert outcome.failure is not None
    assert "rope.scaling.type is 'linexr'" in outcome.failure["message"]


@dataclass
class Made:
    """A job whose source is always there, or fails the first time."""

    folder: Path
    failures: list[Failed] = field(default_factory=list)
    source: str = "s"
    revision: str = "r"
    converts: bool = True

    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        if self.failures:
            raise self.failures.pop()
        for name in ("config.json", "a.gguf"):
            partial.place(name, input=name == "a.gguf").parent.mkdir(exist_ok=True)
            partial.place(name, input=name == "a.gguf").write_text("new")
        partial.record({"config.json": hash_file(partial.place("config.json"))}, conversion=CONVERSION)
        partial.record({"a.gguf": "0" * 64}, input=True)


def outdated(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("old")
    files = {"config.json": entry_of(folder / "config.json", hash_file(folder / "config.json"))}
    write_manifest(folder, Manifest(source="s", revision="r", files=files, inputs={"a.gguf": "0" * 64}))
    return folder


def context_of(folder: Path, **known: Any) -> Context:
    return Context(folder, {}, False, 1.0, Tracker(), **known)


def test_a_volume_without_room_for_both_gives_up_the_old_folder(tmp_path: Path) -> None:
    job = Made(outdated(tmp_path / "m"), [Failed(Reason.DISK_FULL, "full")])
    ensure_published(job, context_of(tmp_path))
    assert (job.folder / "config.json").read_text() == "new"


@pytest.mark.parametrize("reason", [Reason.HUB_UNREACHABLE, Reason.MODEL_NOT_FOUND])
def test_a_source_that_is_gone_leaves_what_is_there(
    tmp_path: Path, reason: Reason, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Made(outdated(tmp_path / "m"), [Failed(reason, "It is gone.")])
    assert ensure_published(job, context_of(tmp_path)) == job.folder
    assert (job.folder / "config.json").read_text() == "old"
    assert "It is gone. Going on with m as an earlier version converted it" in capsys.readouterr().err


def test_a_volume_that_is_read_only_goes_on_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Contender, "attempt", refuse)
    job = Made(outdated(tmp_path / "m"))
    assert ensure_published(job, context_of(tmp_path)) == job.folder
    assert "Read-only file system" in capsys.readouterr().err
    with pytest.raises(OSError, match="Read-only"):
        ensure_published(Made(tmp_path / "other"), context_of(tmp_path))


def test_an_engine_that_reads_the_file_itself_is_none_of_it(tmp_path: Path) -> None:
    job = Made(outdated(tmp_path / "m"), [Failed(Reason.DOWNLOAD_FAILED, "never asked")])
    assert ensure_published(job, context_of(tmp_path, engine="llamacpp")) == job.folder
    assert job.failures, "never asked"


def test_what_an_earlier_version_began_is_not_finished(tmp_path: Path) -> None:
    partial = Partial.open(tmp_path / "m", conversion=1)
    for name in ("config.json", "input.gguf"):
        partial.place(name).write_text("{}")
    partial.record({"config.json": "0" * 64})
    partial.record_input(partial.place("input.gguf"), "1" * 64)
    assert Partial.open(tmp_path / "m").has_files()
    again = Partial.open(tmp_path / "m", conversion=1)
    assert not again.has_files()
    assert again.manifest("s", "r").inputs == {"input.gguf": "1" * 64}
    again.record({"config.json": "2" * 64}, conversion=1)
    assert Partial.open(tmp_path / "m", conversion=1).manifest("s", "r").conversion == 1


def test_a_folder_beside_is_replaced_when_the_other_is_whole(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    write_manifest(tmp_path / "m", Manifest(source="s", revision="r", files={}, inputs={"a.gguf": "0" * 64}))
    partial = Partial.open(tmp_path / "m", beside=True)
    partial.place("new").write_text("x")
    partial.record({"new": hash_file(partial.place("new"))}, conversion=1)
    assert (tmp_path / "m" / "manifest.json").exists()
    partial.publish(partial.manifest("s", "r"))
    assert (tmp_path / "m" / "new").read_text() == "x"
    assert os.listdir(tmp_path) == ["m"]
