"""A list of LoRA adapters that changes: fetched at a start, and beside a model that is served."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ams_common.adapters import AdapterSettings, AdapterState, asked_digest
from ams_common.progress import Failure
from ams_common.reasons import Reason
from ams_pod.download.adapter_list import fetched, kept, missing, read_states, write_states
from ams_pod.download.adapters import FetchedAdapter, rank_to_make_room_for
from ams_pod.download.failures import Failed
from ams_pod.download.watching import Retries
from ams_pod.layout import OutsideRoot
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_lora import peft
from test_pod.download_process import Downloads, Outcome
from test_pod.test_adapters import BASE, SQL, put

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]
FRENCH = peft(rank=24, seed=2)


def sources(**adapters: Any) -> list[dict[str, Any]]:
    return [
        {"name": name, **({"source": given} if isinstance(given, str) else given)} for name, given in adapters.items()
    ]


class Place:
    """The list as a pod's volume brings it, and the folder of links."""

    def __init__(self, downloads: Downloads) -> None:
        self.downloads, self.links = downloads, downloads.base / "run"
        self.list = downloads.base / "etc" / "adapters.json"
        self.list.parent.mkdir()
        self._versions = 0

    def write(self, **adapters: Any) -> None:
        self.write_text(json.dumps(sources(**adapters)))

    def write_text(self, text: str) -> None:
        """As the kubelet does it: a link to a link to a folder, of which the middle one is exchanged."""
        self._versions += 1
        folder = self.list.with_name(f"..{self._versions}")
        folder.mkdir()
        (folder / self.list.name).write_text(text)
        scratch = self.list.with_name("..data_tmp")
        scratch.symlink_to(folder.name)
        os.replace(scratch, self.list.with_name("..data"))
        if not self.list.is_symlink():
            self.list.symlink_to(f"..data/{self.list.name}")

    @property
    def flags(self) -> list[str]:
        models = str(self.downloads.models)
        return [
            "--engine",
            "vllm",
            "--link-dir",
            str(self.links),
            "--adapters-file",
            str(self.list),
            "--models-dir",
            models,
        ]

    def download(self) -> Outcome:
        return self.downloads.run("hf://acme/base", *self.flags[:6])

    @property
    def states(self) -> dict[str, AdapterState]:
        return read_states(self.links)

    @property
    def rank(self) -> str:
        return (self.links / "adapters" / "max-lora-rank").read_text()

    @contextmanager
    def watched(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", "ams_pod", "adapters", "--source", "hf://acme/base", *self.flags]
        with (self.downloads.base / "watcher.log").open("ab") as log:
            process = subprocess.Popen([*command, "--progress-port", "-1"], env=self.downloads.environment, stderr=log)
        try:
            yield process
            assert process.poll() is None, "whatever happens, it goes on"
        finally:
            process.terminate()
            assert process.wait(10) == 143

    def until(self, holds: Callable[[dict[str, AdapterState]], bool]) -> None:
        ends = time.monotonic() + 40
        while not holds(self.states):
            assert time.monotonic() < ends, (self.states, (self.downloads.base / "watcher.log").read_text())
            time.sleep(0.05)


@pytest.fixture
def place(hub: FakeHub, downloads: Downloads) -> Place:
    hub.add(Repository("acme/base")).commit(BASE)
    hub.add(Repository("acme/sql")).commit(SQL)
    hub.add(Repository("acme/french")).commit(FRENCH)
    return Place(downloads)


def ready(states: dict[str, AdapterState]) -> list[str]:
    return [name for name, each in states.items() if each.failure is None]


def test_a_start_has_all_that_can_be_had(place: Place) -> None:
    """What can't doesn't keep the model from starting; it is told by name, with the reason."""
    place.write(sql="hf://acme/sql", typo="hf://acme/sqll", french="hf://acme/french")
    outcome = place.download()
    assert outcome.status == 0
    states = place.states
    assert list(states) == ["sql", "typo", "french"]
    assert ready(states) == ["sql", "french"]
    folder = Path(states["sql"].path)
    assert (folder / "adapter_model.safetensors").read_bytes() == SQL["adapter_model.safetensors"]
    assert (states["sql"].rank, states["french"].rank, place.rank) == (4, 24, "32")
    told = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(SQL.items()))
    assert states["sql"].lock is not None
    assert states["sql"].lock.sha256 == hashlib.sha256(told.encode()).hexdigest()
    typo = states["typo"]
    assert (typo.path, typo.version) == ("", "")
    assert typo.failure is not None
    assert typo.failure.reason == "ModelNotFound"
    assert "acme/sqll" in typo.failure.message
    assert outcome.lock is not None
    assert outcome.lock["files"] == len(BASE)  # of the weights alone, which don't change


def test_a_model_whose_list_cant_be_read_doesnt_start_with_none(place: Place) -> None:
    place.write_text('[{"name": "sql"')
    assert place.download().reason == "InvalidSource"


def test_a_list_and_a_setting_are_one_too_many(place: Place) -> None:
    place.write(sql="hf://acme/sql")
    given = json.dumps(sources(sql="hf://acme/sql"))
    outcome = place.downloads.run("hf://acme/base", *place.flags[:6], "--adapters", given)
    assert "adapters are those of the one or of the other" in outcome.message


def test_adapters_are_fetched_as_the_list_changes(place: Place, hub: FakeHub) -> None:
    place.write(sql="hf://acme/sql")
    place.download()
    before = place.states["sql"]
    with place.watched():
        place.write(sql="hf://acme/sql", french="hf://acme/french")
        place.until(lambda states: ready(states) == ["sql", "french"])
        assert place.states["sql"] == before
        assert place.rank == "32"  # an engine that is started again makes room for it
        place.write_text('[{"name": "fr')  # half of it
        time.sleep(2.5)
        assert ready(place.states) == ["sql", "french"]
        place.list.unlink()
        time.sleep(1.5)
        assert ready(place.states) == ["sql", "french"]
        # Another source of the same name has other bytes, so that it is told apart.
        place.write(sql="hf://acme/french")
        place.until(lambda states: list(states) == ["sql"] and states["sql"].version != before.version)
        assert place.states["sql"].version == read_states(place.links)["sql"].version != before.version
        place.write()
        place.until(lambda states: states == {})


def test_a_hub_that_is_away_keeps_a_model_from_starting_for_seconds_and_not_for_each(
    place: Place, tmp_path: Path
) -> None:
    base, sql = put(tmp_path / "base", BASE), put(tmp_path / "sql", SQL)
    away = {f"away-{number}": f"hf://acme/away-{number}" for number in range(8)}
    place.write(**away, sql=f"file://{sql}")
    began = time.monotonic()
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    outcome = place.downloads.run(f"file://{base}", *place.flags[:6], "--retry-seconds", "2", **environment)
    assert outcome.status == 0
    assert time.monotonic() - began < 15
    assert ready(place.states) == ["sql"]
    assert {each.failure.reason for each in place.states.values() if each.failure is not None} == {"HubUnreachable"}


def test_what_cant_be_fetched_is_told_and_leaves_the_others(place: Place) -> None:
    place.write(sql="hf://acme/sql")
    place.download()
    before = place.states["sql"]
    wrong = {"source": "hf://acme/french", "lock": {"adapter_model.safetensors": "0" * 64}}
    with place.watched():
        place.write(sql=wrong, typo="hf://acme/none", french="hf://acme/french")
        place.until(lambda states: list(states) == ["sql", "typo", "french"] and ready(states) == ["french"])
        sql = place.states["sql"]
        assert sql.failure is not None
        assert sql.failure.reason == "LockMismatch"
        assert (sql.path, sql.version) == (before.path, before.version)  # goes on being served
        assert sql.asked != before.asked


def test_a_watcher_begins_where_the_start_left_off_and_asks_nobody(place: Place, hub: FakeHub) -> None:
    place.write(sql="hf://acme/sql")
    place.download()
    asked = len(hub.requests)
    with place.watched():
        time.sleep(2.5)
    assert len(hub.requests) == asked


def test_it_says_what_it_lacks() -> None:
    ended = subprocess.run([sys.executable, "-m", "ams_pod", "adapters", "--source", "hf://a/b"], capture_output=True)
    assert ended.returncode == 2
    assert b"--adapters-file and --link-dir are required" in ended.stderr


ONE = AdapterSettings("sql", "hf://acme/sql")
OTHER = AdapterSettings("sql", "hf://acme/sql", {"adapter_model.safetensors": "0" * 64})


def test_what_is_asked_for_is_told_apart_by_source_and_lock() -> None:
    assert asked_digest(ONE) == asked_digest(AdapterSettings("another", ONE.source))
    assert len({asked_digest(ONE), asked_digest(OTHER), asked_digest(AdapterSettings("sql", "hf://acme/other"))}) == 3


def test_what_is_known_of_a_list_and_what_is_missing() -> None:
    states = {"sql": AdapterState("sql", asked_digest(ONE), "/sql"), "old": AdapterState("old", "x", "/old")}
    french = AdapterSettings("french", "hf://acme/french")
    assert kept([french, OTHER], states) == [states["sql"]]
    assert missing([ONE, french], states) == [french]
    assert missing([OTHER], states) == [OTHER]


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (Failed(Reason.GATED_MODEL, "Ask for access with hf_secret."), "GatedModel", "with ***"),
        (OutsideRoot("'..' is no path inside /models."), "InvalidSource", "no path inside"),
        (OSError(28, "No space left on device"), "DiskFull", "/models is full"),
        (OSError(30, "Read-only file system"), "VolumeNotWritable", "Read-only file system"),
        (ValueError("what nobody\nthought of"), "DownloadFailed", "Unexpected ValueError: what nobody"),
    ],
)
def test_whatever_goes_wrong_with_one_is_a_sentence(error: Exception, reason: str, words: str) -> None:
    def fetch(adapter: AdapterSettings) -> FetchedAdapter:
        raise error

    def redact(text: str) -> str:
        return text.replace("hf_secret", "***")

    found = fetched(ONE, fetch, None, "/models", redact)
    assert found.failure is not None
    assert (found.failure.reason, found.path) == (reason, "")
    assert words in found.failure.message
    before = AdapterState("sql", "before", "/sql", "1" * 16, 8)
    again = fetched(ONE, fetch, before, "/models", redact)
    assert (again.path, again.version, again.asked) == ("/sql", "1" * 16, asked_digest(ONE))
    assert again.failure == found.failure


def test_the_same_bytes_are_the_same_version(tmp_path: Path) -> None:
    folder = put(tmp_path / "sql", SQL)

    def version() -> str:
        return fetched(ONE, lambda each: FetchedAdapter("sql", folder, folder, 4), None, "", str).version

    before = version()
    assert (len(before), version()) == (16, before)
    (folder / "adapter_model.safetensors").write_bytes(b"others")
    assert version() != before


def test_states_that_cant_be_read_are_none(tmp_path: Path) -> None:
    assert read_states(tmp_path) == {}
    write_states(tmp_path, [AdapterState("sql", "a", "/sql")], "vllm")
    assert list(read_states(tmp_path)) == ["sql"]
    (tmp_path / "adapters" / "state.json").write_bytes(b'{"adapters":[{}]}')
    assert read_states(tmp_path) == {}


@pytest.mark.parametrize(
    ("ranks", "engine", "room"),
    [([], "vllm", 16), ([8], "vllm", 16), ([8, 24], "vllm", 32), ([600], "vllm", 512), ([24], "sglang", 24)],
)
def test_an_engine_has_room_for_what_may_come(ranks: list[int], engine: Any, room: int) -> None:
    assert rank_to_make_room_for(ranks, engine) == room


def test_what_failed_is_tried_again_later_and_later() -> None:
    retries, failure = Retries(), Failure("HubUnreachable", "It doesn't answer.")
    states = {"sql": AdapterState("sql", "a", failure=failure), "french": AdapterState("french", "b", "/french")}
    seen = [now for now in range(0, 1200) if retries.due(states, float(now), 0.999999)]
    waits = [after - before for before, after in itertools.pairwise(seen)]
    assert (seen[0], waits[:4]) == (15, [30, 60, 120, 240])
    assert max(waits) == 300
    states["sql"] = AdapterState("sql", "another", failure=failure)
    assert retries.due(states, 2000.0, 0.5) == []  # it was just tried
    states["sql"] = AdapterState("sql", "another", "/sql")
    assert retries.due(states, 9000.0, 0.5) == []
