"""Downloads that are killed, and several at once on one folder."""

import json
import os
import signal
from pathlib import Path

import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Progress
from ams_pod.download.lease import BEAT_SECONDS, STALE_SECONDS, Contender, FolderLease, FolderLeaseLost
from fakehub.faults import Fault
from fakehub.server import FakeHub
from test_pod.download_model import MIB, READ, TINY, WEIGHTS
from test_pod.download_process import Downloads, until

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]


def partial_bytes(downloads: Downloads) -> int:
    """Bytes of the weights that are on the volume so far."""
    return sum(path.stat().st_size for path in downloads.models.rglob("model.safetensors.part"))


def test_a_killed_download_goes_on_from_its_bytes(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=2 * MIB))
    first = downloads.start("hf://acme/tiny")
    until(lambda: partial_bytes(downloads) > MIB)
    first.kill()
    there = partial_bytes(downloads)
    folder = downloads.run("hf://acme/tiny").folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    _, second = hub.downloads("model.safetensors")
    assert (second.start, second.sent) == (there, len(WEIGHTS) - there)
    for name in READ - {"model.safetensors"}:
        assert len(hub.downloads(name)) == 1


def test_wrong_bytes_of_a_killed_download_are_fetched_again(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=MIB))
    first = downloads.start("hf://acme/tiny")
    until(lambda: partial_bytes(downloads) > MIB // 2)
    first.kill()
    (part,) = downloads.models.rglob("model.safetensors.part")
    with open(part, "r+b") as file:  # as after a power cut: blocks that were never written
        file.write(bytes(4096))
    folder = downloads.run("hf://acme/tiny").folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_sigterm_ends_it_at_once_and_leaves_the_folder_free(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=MIB))
    first = downloads.start("hf://acme/tiny")
    until(lambda: partial_bytes(downloads) > MIB // 2)
    first.process.send_signal(signal.SIGTERM)
    assert first.wait(10).status == 128 + signal.SIGTERM
    (lease,) = downloads.models.rglob(".*.lease.*")
    assert json.loads(lease.read_bytes())["released"] is True
    assert downloads.run("hf://acme/tiny").status == 0


def test_two_at_once_fetch_once(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("slow", "model.safetensors", rate=2 * MIB, times=-1))
    processes = [downloads.start("hf://acme/tiny") for _ in range(3)]
    outcomes = [process.wait() for process in processes]
    assert len({outcome.folder for outcome in outcomes}) == 1
    assert sum(asked.sent for asked in hub.downloads("model.safetensors")) == len(WEIGHTS)
    waiting = [
        step for outcome in outcomes for step in outcome.progress if "another process" in step.get("message", "")
    ]
    assert any(step["phase"] == "downloading" and step["download"]["bytesTotal"] for step in waiting)


def test_a_waiting_process_takes_over_from_a_dead_one(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=2 * MIB))
    first = downloads.start("hf://acme/tiny")
    until(lambda: partial_bytes(downloads) > MIB)
    second = downloads.start("hf://acme/tiny")
    until(lambda: "another process" in second.stderr)
    first.kill()
    there = partial_bytes(downloads)
    folder = second.wait().folder
    assert all((folder / name).read_bytes() == TINY[name] for name in READ)
    assert hub.downloads("model.safetensors")[-1].start == there


def test_a_frozen_process_is_overtaken_and_does_no_harm(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("stall", "model.safetensors", after=2 * MIB))
    first = downloads.start("hf://acme/tiny")
    until(lambda: partial_bytes(downloads) > MIB)
    first.process.send_signal(signal.SIGSTOP)  # alive, but without a heartbeat
    second = downloads.start("hf://acme/tiny")
    folder = second.wait().folder
    first.process.send_signal(signal.SIGCONT)
    hub.release()
    assert first.wait().folder == folder
    assert all((folder / name).read_bytes() == TINY[name] for name in READ)


# the lease itself, with time as an argument


def other_machine(folder: Path, number: int, beat: int, **more: object) -> None:
    """A heartbeat as a process of another machine writes it."""
    content = {"owner": "other", "process": "elsewhere/1/1", "beat": beat, **more}
    folder.with_name(f".{folder.name}.lease.{number}").write_text(json.dumps(content))


def won(answer: object) -> FolderLease:
    assert isinstance(answer, FolderLease)
    return answer


def leases(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder.parent) if ".lease." in name)


def test_a_free_folder_is_won_by_one(tmp_path: Path) -> None:
    with won(Contender(tmp_path / "m").attempt(0)):
        second = Contender(tmp_path / "m")
        assert not isinstance(second.attempt(0), FolderLease)
        assert not isinstance(second.attempt(STALE_SECONDS / 2), FolderLease)
    with won(second.attempt(STALE_SECONDS / 2)) as lease:  # released: at once
        lease.check()
    assert leases(tmp_path / "m") == [".m.lease.2"]


def test_a_heartbeat_is_waited_for_while_it_changes(tmp_path: Path) -> None:
    folder, waiting = tmp_path / "m", Contender(tmp_path / "m")
    for beat in range(5):
        other_machine(folder, 7, beat)
        assert not isinstance(waiting.attempt(beat * STALE_SECONDS), FolderLease)
    assert not isinstance(waiting.attempt(5 * STALE_SECONDS - 1), FolderLease)
    with won(waiting.attempt(5 * STALE_SECONDS + 1)):
        assert leases(folder) == [".m.lease.8"]


def test_who_waits_sees_the_progress(tmp_path: Path) -> None:
    progress = Progress(Phase.DOWNLOADING, 40.0, 6.0, "", Download(bytesDone=4, bytesTotal=10))
    with won(Contender(tmp_path / "m", lambda: progress).attempt(0)):
        waiting = Contender(tmp_path / "m")
        until(lambda: waiting.attempt(0) == progress, 10 * BEAT_SECONDS)


def test_only_one_of_two_takes_over(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    other_machine(folder, 1, 0)
    first, second = Contender(folder), Contender(folder)
    for contender in (first, second):
        contender.attempt(0)
    with won(first.attempt(STALE_SECONDS + 1)) as lease:
        assert not isinstance(second.attempt(STALE_SECONDS + 1), FolderLease)
        lease.check()


def test_who_was_overtaken_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    with won(Contender(folder).attempt(0)) as lease:
        lease.check()
        other_machine(folder, 2, 0)
        with pytest.raises(FolderLeaseLost):
            lease.check()
        with pytest.raises(FolderLeaseLost):
            lease.hold()
    assert json.loads((tmp_path / ".m.lease.2").read_text())["owner"] == "other"


def test_a_lease_that_was_removed_is_lost_and_not_made_again(tmp_path: Path) -> None:
    with won(Contender(tmp_path / "m").attempt(0)) as lease:
        (tmp_path / ".m.lease.1").unlink()
        with pytest.raises(FolderLeaseLost):
            lease.check()
    assert leases(tmp_path / "m") == []


def test_an_empty_lease_is_given_time_to_be_written(tmp_path: Path) -> None:
    (tmp_path / ".m.lease.1").touch()
    contender = Contender(tmp_path / "m")
    assert contender.attempt(0) is None
    with won(contender.attempt(STALE_SECONDS + 1)) as lease:
        lease.check()
