"""The hub's xet storage: the real library against a content store in a folder."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fakehub.faults import Fault
from fakehub.repository import Repository
from fakehub.server import FakeHub
from test_pod.download_process import Downloads, until

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]
hf_xet = pytest.importorskip("hf_xet")

MIB = 1 << 20
WEIGHTS = random.Random(1).randbytes(20 * MIB)
SHARD = "model-0.safetensors"


# In a process of its own: a store is open in one process at a time.
_UPLOAD = """
import sys, hf_xet
upload = hf_xet.XetSession().new_upload_commit(endpoint=sys.argv[1])
handles = [upload.start_upload_file(path) for path in sys.argv[2:]]
upload.wait_to_finish()
print(*(handle.result().xet_info.hash for handle in handles))
"""


def add_model(hub: FakeHub, base: Path, weights: list[bytes]) -> None:
    """acme/xet, whose shards lie in a content store, and also in the hub's plain storage."""
    store = base / "store"
    store.mkdir()
    shards = {}
    for number, content in enumerate(weights):
        shards[f"model-{number}.safetensors"] = base / f"shard-{number}"
        (base / f"shard-{number}").write_bytes(content)
    command = [sys.executable, "-c", _UPLOAD, f"local://{store}", *map(str, shards.values())]
    hashes = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    index = json.dumps({"weight_map": {name: name for name in shards}}).encode()
    repository = hub.add(Repository("acme/xet"))
    commit = repository.commit({"config.json": b"{}", "model.safetensors.index.json": index, **shards})
    for name, xet in zip(shards, hashes, strict=True):
        hub.xet[repository.commits[commit][name].sha256] = xet
    hub.xet_store = f"local://{store}"


@pytest.fixture
def store(hub: FakeHub, tmp_path: Path) -> None:
    """acme/xet with one shard."""
    add_model(hub, tmp_path, [WEIGHTS])


def test_weights_come_by_xet_where_the_hub_has_it(store: None, hub: FakeHub, downloads: Downloads) -> None:
    folder = downloads.run("hf://acme/xet").folder
    assert (folder / SHARD).read_bytes() == WEIGHTS
    assert not hub.downloads(SHARD)


def test_its_memory_is_bounded(hub: FakeHub, downloads: Downloads, tmp_path: Path) -> None:
    add_model(hub, tmp_path, [random.Random(2).randbytes(64 * MIB) for _ in range(3)])
    outcome = downloads.run("hf://acme/xet")
    assert outcome.status == 0
    assert not [asked for asked in hub.requests if asked.where.endswith("safetensors") and asked.sent]
    if outcome.peak_bytes is None:
        pytest.skip("only Linux tells a process's peak memory")
    assert outcome.peak_bytes < 300 * MIB


def test_a_killed_download_goes_on_by_xet(store: None, hub: FakeHub, downloads: Downloads) -> None:
    hub.fail(Fault("stall", SHARD, after=8 * MIB))
    first = downloads.start("hf://acme/xet", HF_HUB_DISABLE_XET="1")
    until(lambda: any(path.stat().st_size > 4 * MIB for path in downloads.models.rglob("*.part")))
    first.kill()
    hub.requests.clear()
    outcome = downloads.run("hf://acme/xet")
    assert (outcome.folder / SHARD).read_bytes() == WEIGHTS
    assert not hub.downloads(SHARD)
    counted = [step["download"]["bytesDone"] for step in outcome.progress if "download" in step]
    assert all(count >= 4 * MIB for count in counted)


@pytest.mark.parametrize("broken", ["gone", "no token", "switched off"])
def test_without_xet_it_goes_by_http(hub: FakeHub, downloads: Downloads, store: Path, broken: str) -> None:
    environment = {}
    if broken == "gone":
        hub.xet_store = "http://127.0.0.1:9"
        environment = {"HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0"}
    elif broken == "no token":
        hub.xet_store = ""
    else:
        environment = {"HF_HUB_DISABLE_XET": "1"}
    folder = downloads.run("hf://acme/xet", **environment).folder
    assert (folder / SHARD).read_bytes() == WEIGHTS
    assert hub.downloads(SHARD)


def test_the_settings_that_bound_its_memory_are_its_own() -> None:
    from ams_pod.download.hub import XET_ENVIRONMENT

    known = {f"HF_XET_{key.upper().replace('.', '_')}" for key, _ in hf_xet.XetConfig().items()}
    assert XET_ENVIRONMENT.keys() - known == {"HF_XET_DISABLE_MEMORY_DERIVED_DOWNLOAD_BUFFERS"}
