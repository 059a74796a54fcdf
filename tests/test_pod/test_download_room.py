"""Weights come before what was made of weights: a download on a full volume removes that first."""

from pathlib import Path

import pytest
from ams_pod.derived import remove_all_derived
from ams_pod.download.failures import Failed, disk_full
from ams_pod.download.jobs import Context, ensure_published
from ams_pod.download.lease import FolderLease
from ams_pod.download.manifest import hash_file
from ams_pod.download.partial import Partial
from ams_pod.download.progress import Tracker


class Job:
    """A model of one file, for which there is room once `needs_room` finds none of that name."""

    source, revision, converts = "hf://acme/new", "main", False

    def __init__(self, folder: Path, needs_room: str) -> None:
        self.folder = folder
        self.needs_room = needs_room
        self.tries = 0

    def fill(self, partial: Partial, lease: FolderLease, context: Context) -> None:
        self.tries += 1
        if list(context.models_dir.rglob(self.needs_room)):
            raise disk_full(str(context.models_dir), needed=2, free=1)
        path = partial.place("config.json")
        path.write_text("{}")
        partial.record({"config.json": hash_file(path)})


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name in (
        "acme--one/derived/tiles-1.bin",
        "acme--one/derived/logits-1.safetensors",
        "files/x-1/derived/logits-2",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    (tmp_path / "acme--one" / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def context(models: Path) -> Context:
    return Context(models, {}, False, 1.0, Tracker())


def test_what_pods_kept_makes_room(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = Job(models / "acme--new", "tiles-*")
    assert ensure_published(job, context(models)) == job.folder
    assert job.tries == 2
    assert list(models.rglob("derived/*")) == []
    assert (models / "acme--one" / "model.safetensors").read_bytes() == b"weights"
    assert "30 B that pods had kept for faster starts were removed" in capsys.readouterr().err


def test_where_that_is_not_enough_it_is_told_once(models: Path) -> None:
    job = Job(models / "acme--new", "model.safetensors")
    with pytest.raises(Failed) as failed:
        ensure_published(job, context(models))
    assert (failed.value.failure.reason, job.tries) == ("DiskFull", 2)
    with pytest.raises(Failed):
        ensure_published(job, context(models))
    assert job.tries == 3, "nothing was left to remove"


def test_a_link_leads_nowhere(models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").write_bytes(b"x")
    (models / "acme--two").mkdir()
    (models / "acme--two" / "derived").symlink_to(elsewhere)
    (models / "acme--one" / "derived" / "link").symlink_to(elsewhere / "precious")
    (models / "acme--one" / "derived" / "folder").mkdir()
    remove_all_derived(models)
    assert (elsewhere / "precious").read_bytes() == b"x"
