"""Downloads from a hub, and everything a hub can do wrong, over real sockets."""

import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from ams_common.source import parse_source
from ams_pod.layout import find_model
from fakehub.faults import Fault
from fakehub.repository import File, Repository, Zeros
from fakehub.server import FakeHub
from test_pod.download_model import MIB, READ, TINY, WEIGHTS
from test_pod.download_process import Downloads

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_brings_a_model_into_its_folder(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    outcome = downloads.run("hf://acme/tiny")
    folder = outcome.folder
    assert folder == downloads.models / "acme--tiny" / commit
    assert names(folder) == READ | {"manifest.json"}
    assert all((folder / name).read_bytes() == TINY[name] for name in READ)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["source"], manifest["revision"]) == ("hf://acme/tiny", commit)
    for name in READ:
        stat = (folder / name).stat()
        assert manifest["files"][name] == {
            "sha256": hashlib.sha256(TINY[name]).hexdigest(),
            "size": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
        }
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) == folder
    assert outcome.failure is None
    assert outcome.progress[-1] == {"phase": "ready", "message": str(folder)}


def test_the_lock_that_is_told_is_what_sha256sum_says(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    outcome = downloads.run("hf://acme/tiny")
    printed = subprocess.run(["sha256sum", *sorted(READ)], cwd=outcome.folder, capture_output=True, check=True).stdout
    assert outcome.lock == {"files": len(READ), "sha256": hashlib.sha256(printed).hexdigest()}
    assert downloads.run("hf://acme/tiny").lock == outcome.lock, "also when they are there already"


def test_a_real_checkpoint_loads_from_the_folder(
    hub: FakeHub, downloads: Downloads, checkpoint: Callable[[str], Path]
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    files = {path.name: path for path in checkpoint("qwen3").iterdir()}
    hub.add(Repository("acme/qwen3")).commit(files)
    folder = downloads.run("hf://acme/qwen3").folder
    assert AutoConfig.from_pretrained(folder).architectures == ["Qwen3ForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>"


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/1"])
def test_a_revision_means_a_commit(hub: FakeHub, downloads: Downloads, revision: str) -> None:
    repository = hub.add(Repository("acme/tiny"))
    commit = repository.commit(TINY, revision)
    repository.commit({**TINY, "config.json": b"{}"}, "other")
    assert downloads.run(f"hf://acme/tiny@{revision}").folder.name == commit
    assert find_model(parse_source(f"hf://acme/tiny@{revision}"), downloads.models) is not None
    assert find_model(parse_source("hf://acme/tiny@other"), downloads.models) is None


def test_a_branch_that_moved_is_followed(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    old = downloads.run("hf://acme/tiny").folder
    hub.repositories["acme/tiny"].commit({**TINY, "config.json": b"{}"})
    new = downloads.run("hf://acme/tiny").folder
    assert new != old
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) == new
    assert find_model(parse_source(f"hf://acme/tiny@{commit}"), downloads.models) == old


def test_shards_of_the_index_are_fetched_and_nothing_else(hub: FakeHub, downloads: Downloads) -> None:
    shards = {f"model-0000{n}-of-00002.safetensors": WEIGHTS[n:] for n in (1, 2)}
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    files = {"config.json": b"{}", "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    hub.add(Repository("acme/big")).commit({**files, "consolidated.safetensors": WEIGHTS})
    assert names(downloads.run("hf://acme/big").folder) == {*files, "manifest.json"}


def test_pickled_weights_need_to_be_allowed(hub: FakeHub, downloads: Downloads) -> None:
    hub.add(Repository("acme/old")).commit({"config.json": b"{}", "pytorch_model.bin": b"pickled"})
    outcome = downloads.run("hf://acme/old")
    assert outcome.reason == "PickledWeights"
    assert not hub.downloads("pytorch_model.bin")
    allowed = downloads.run("hf://acme/old", AMS_ALLOW_PICKLE="true")
    assert names(allowed.folder) == {"config.json", "pytorch_model.bin", "manifest.json"}


# who may


def test_a_token_opens_a_private_model_and_never_reaches_the_storage(hub: FakeHub, downloads: Downloads) -> None:
    hub.tokens.add("hf_right")
    hub.add(Repository("acme/tiny", private=True)).commit(TINY)
    assert downloads.run("hf://acme/tiny").reason == "ModelNotFound"
    assert downloads.run("hf://acme/tiny", HF_TOKEN="hf_right").status == 0
    storage = [asked for asked in hub.requests if asked.storage]
    assert storage
    assert all(asked.token is None for asked in storage)


def test_a_gated_model_says_what_to_do(hub: FakeHub, downloads: Downloads) -> None:
    hub.tokens.add("hf_waiting")
    hub.add(Repository("acme/tiny", gated=True)).commit(TINY)
    outcome = downloads.run("hf://acme/tiny")
    assert outcome.reason == "GatedModel"
    assert outcome.failure is not None
    assert f"{hub.url}/acme/tiny" in outcome.failure["message"]
    assert downloads.run("hf://acme/tiny", HF_TOKEN="hf_waiting").reason == "GatedModel"
    hub.allowed.add(("hf_waiting", "acme/tiny"))
    assert downloads.run("hf://acme/tiny", HF_TOKEN="hf_waiting").status == 0


@pytest.mark.parametrize(
    ("source", "token", "reason"),
    [
        ("hf://acme/none", "", "ModelNotFound"),
        ("hf://acme/none", "hf_right", "ModelNotFound"),
        ("hf://acme/tiny@none", "", "RevisionNotFound"),
        ("hf://acme/tiny@" + "0" * 40, "", "RevisionNotFound"),
        ("hf://acme/tiny", "hf_wrong", "BadToken"),
        ("hf://acme/tiny?file=none.gguf", "", "InvalidSource"),
        ("hf://tiny", "", "InvalidSource"),
        ("hf://acme--x/tiny", "", "InvalidSource"),
        ("ftp://acme/tiny", "", "InvalidSource"),
        ("pvc://claim/tiny", "", "InvalidSource"),
    ],
)
def test_what_cannot_be_fetched_has_a_reason(
    hub: FakeHub, downloads: Downloads, commit: str, source: str, token: str, reason: str
) -> None:
    hub.tokens.add("hf_right")
    outcome = downloads.run(source, HF_TOKEN=token)
    assert outcome.reason == reason
    assert outcome.failure is not None
    assert outcome.failure["retryable"] is False
    assert json.loads(outcome.stderr.splitlines()[-1]) == outcome.failure
    assert outcome.progress[-1]["failure"]["reason"] == reason
    assert "Traceback" not in outcome.stderr


# what goes wrong on the way


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "api", status=429, retry_after=1),
        Fault("status", "api", status=500),
        Fault("status", "model.safetensors", status=429, retry_after=1),
        Fault("status", "model.safetensors", status=503, times=2),
        Fault("status", "model.safetensors", status=500, methods=("HEAD",)),
        Fault("status", "config.json", status=502),
        Fault("cut", "model.safetensors", after=MIB),
        Fault("cut", "model.safetensors", after=300_000, times=5),
        Fault("cut", "config.json", after=3),
        Fault("no-ranges", "model.safetensors", times=-1),
        Fault("corrupt", "model.safetensors", after=2 * MIB),
        Fault("corrupt", "config.json", after=1),
        Fault("too-long", "model.safetensors", after=1000),
        Fault("slow", "model.safetensors", rate=8 * MIB, times=-1),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.where}-{fault.times}",
)
def test_a_passing_fault_is_survived(hub: FakeHub, downloads: Downloads, commit: str, fault: Fault) -> None:
    hub.fail(fault)
    folder = downloads.run("hf://acme/tiny").folder
    assert fault.hits
    assert all((folder / name).read_bytes() == TINY[name] for name in READ)


def test_a_cut_connection_goes_on_where_it_broke(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("cut", "model.safetensors", after=MIB))
    assert downloads.run("hf://acme/tiny").status == 0
    first, second = hub.downloads("model.safetensors")
    assert (first.sent, second.start) == (MIB, MIB)
    assert first.sent + second.sent == len(WEIGHTS)


def test_waits_as_long_as_the_hub_asks(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("status", "api", status=429, retry_after=3600))
    outcome = downloads.run("hf://acme/tiny", "--retry-seconds", "30")
    assert outcome.reason == "HubRateLimited"  # an hour is more than its patience: it ends at once, and says so
    assert outcome.failure is not None
    assert outcome.failure["retryable"] is True
    assert len(hub.requests) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("status", "api", status=500, times=-1), "HubUnreachable"),
        (Fault("status", "api", status=429, times=-1), "HubRateLimited"),
        (Fault("status", "model.safetensors", status=503, times=-1), "HubUnreachable"),
        (Fault("cut", "model.safetensors", after=0, times=-1), "HubUnreachable"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind,
)
def test_gives_up_when_it_lasts(hub: FakeHub, downloads: Downloads, commit: str, fault: Fault, reason: str) -> None:
    hub.fail(fault)
    outcome = downloads.run("hf://acme/tiny", "--retry-seconds", "1")
    assert outcome.reason == reason
    assert outcome.failure is not None
    assert outcome.failure["retryable"] is True
    assert fault.hits > 1
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) is None


def test_a_hub_that_never_gets_further_is_given_up(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("cut", "model.safetensors", after=MIB, times=1))
    hub.fail(Fault("no-ranges", "model.safetensors", times=1))  # from the start again ...
    hub.fail(Fault("cut", "model.safetensors", after=0, times=-1))
    assert downloads.run("hf://acme/tiny", "--retry-seconds", "1").status == 0


def test_wrong_bytes_are_never_served(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.fail(Fault("corrupt", "model.safetensors", after=7, times=-1))
    outcome = downloads.run("hf://acme/tiny")
    assert outcome.reason == "ChecksumMismatch"
    assert "model.safetensors" in outcome.stderr
    assert len(hub.downloads("model.safetensors")) == 2
    assert find_model(parse_source("hf://acme/tiny"), downloads.models) is None
    hub.faults.clear()
    assert downloads.run("hf://acme/tiny").status == 0


def test_an_address_without_a_hub_is_told(downloads: Downloads, hub: FakeHub) -> None:
    outcome = downloads.run("hf://acme/tiny", "--retry-seconds", "0.5", HF_ENDPOINT="http://127.0.0.1:9")
    assert outcome.reason == "HubUnreachable"
    assert "127.0.0.1:9" in outcome.stderr


def test_a_model_larger_than_the_volume_is_refused_first(hub: FakeHub, downloads: Downloads) -> None:
    huge = File("model.safetensors", Zeros(10), claimed=1 << 55)
    repository = hub.add(Repository("acme/huge"))
    repository.commit_files({"config.json": File("config.json", Zeros(2)), huge.path: huge})
    outcome = downloads.run("hf://acme/huge")
    assert outcome.reason == "DiskFull"
    assert outcome.failure is not None
    assert "32768.0 TiB more are needed" in outcome.failure["message"]
    assert not hub.downloads("model.safetensors")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_volume_that_cannot_be_written_is_told(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    downloads.models.mkdir(mode=0o500)
    assert downloads.run("hf://acme/tiny").reason == "VolumeNotWritable"


def test_a_models_dir_that_is_a_file_is_told(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    downloads.models.write_text("")
    assert downloads.run("hf://acme/tiny").reason == "VolumeNotWritable"


def test_a_mirror_that_lists_only_names_is_enough(hub: FakeHub, downloads: Downloads, commit: str) -> None:
    hub.ignore_blobs = True
    hub.fail(Fault("corrupt", "model.safetensors", after=7))
    folder = downloads.run("hf://acme/tiny").folder
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.downloads("model.safetensors")) == 2  # it still knew what the bytes must be


@pytest.mark.parametrize("token", ["hf_a-very-secret-token"])
def test_no_secret_in_any_output(hub: FakeHub, downloads: Downloads, commit: str, token: str) -> None:
    hub.fail(Fault("cut", "model.safetensors", after=10, times=-1))
    bad = downloads.run("hf://acme/tiny", HF_TOKEN=token)
    hub.tokens.add(token)
    cut = downloads.run("hf://acme/tiny", "--retry-seconds", "1", HF_TOKEN=token, HF_DEBUG="1")
    hub.faults.clear()
    good = downloads.run("hf://acme/tiny", HF_TOKEN=token, HF_HUB_VERBOSITY="debug")
    assert (bad.status, cut.status, good.status) == (1, 1, 0)
    written = [path.read_bytes() for path in downloads.base.rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in (token.encode(), b"X-Signature"):
        assert not any(secret in content for content in written)


def test_the_fake_hub_is_a_hub_for_huggingface_hub(hub: FakeHub, tmp_path: Path, commit: str) -> None:
    """What the tests above stand on: the library's own download works with it."""
    code = (
        "import sys; from huggingface_hub import snapshot_download as get;"
        "get('acme/tiny', token=False, local_dir=sys.argv[1])"
    )
    folder = tmp_path / "copy"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", code, str(folder)], env=environment, check=True, timeout=60)
    assert all((folder / name).read_bytes() == content for name, content in TINY.items())


def test_the_fake_hub_runs_as_a_command(downloads: Downloads, tmp_path: Path) -> None:
    folder = tmp_path / "served" / "acme" / "tiny"
    folder.mkdir(parents=True)
    for name, content in TINY.items():
        (folder / name).write_bytes(content)
    command = [sys.executable, "-m", "fakehub", str(tmp_path / "served")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            fault = json.dumps({"kind": "cut", "where": "model.safetensors", "after": MIB}).encode()
            with urllib.request.urlopen(f"{url}/_faults", data=fault, timeout=5):
                pass
            assert downloads.run("hf://acme/tiny", HF_ENDPOINT=url).status == 0
            with urllib.request.urlopen(f"{url}/_requests", timeout=5) as response:
                asked = [
                    entry for entry in json.load(response) if entry["where"] == "model.safetensors" and entry["sent"]
                ]
            assert [entry["start"] for entry in asked] == [0, MIB]
        finally:
            process.terminate()
