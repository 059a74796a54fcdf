"""Weights for engines of other makes: a GGUF file stays as it is, and a link leads to what the engine loads."""

import json
from pathlib import Path

import pytest
from ams_common.source import parse_source
from ams_pod.layout import find_model
from fakehub.repository import Repository
from fakehub.server import FakeHub
from fakehub.tiny_gguf import make_gguf
from test_pod.download_process import Downloads

pytest_plugins = ["fakehub.fixtures", "test_pod.download_fixtures"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


def test_a_gguf_file_of_a_hub_is_kept_with_what_prompts_need(hub: FakeHub, downloads: Downloads, gguf: Path) -> None:
    hub.add(Repository("acme/tiny")).commit({"tiny.gguf": gguf})
    source, links = "hf://acme/tiny?file=tiny.gguf", downloads.base / "run"
    outcome = downloads.run(source, "--engine", "llamacpp", "--link-dir", str(links))
    folder = outcome.folder
    assert (folder / "tiny.gguf").read_bytes() == gguf.read_bytes()
    assert (folder / "tokenizer.json").is_file()
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    assert not list(folder.glob("*.safetensors"))
    assert (links / "model.gguf").resolve() == folder / "tiny.gguf"
    assert outcome.lock is not None
    assert outcome.lock["files"] == 1  # what was made of it is no part of the lock
    assert find_model(parse_source(source), downloads.models, "llamacpp") == folder
    assert find_model(parse_source(source), downloads.models) is None  # the builtin engine has another folder
    again = downloads.run(source, "--engine", "llamacpp", "--link-dir", str(links))
    assert again.folder == folder


def test_a_gguf_file_of_this_machine_stays_where_it_is(downloads: Downloads, gguf: Path) -> None:
    links = downloads.base / "run"
    outcome = downloads.run(f"file://{gguf}", "--engine", "llamacpp", "--link-dir", str(links))
    assert (links / "model.gguf").resolve() == gguf
    assert (outcome.folder / "tokenizer.json").is_file()
    assert not list(outcome.folder.glob("*.gguf"))


def test_a_gguf_file_is_nothing_for_vllm(downloads: Downloads, gguf: Path) -> None:
    outcome = downloads.run(f"file://{gguf}", "--engine", "vllm")
    assert outcome.reason == "InvalidSource"
    assert "llamacpp" in outcome.message


def test_an_architecture_whose_tokenizer_is_unknown_is_told(downloads: Downloads, gguf: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(
        gguf.read_bytes().replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x05\x00\x00\x00\x00\x00\x00\x00zebra")
    )
    outcome = downloads.run(f"file://{other}", "--engine", "llamacpp")
    assert outcome.reason == "ConversionFailed"
    assert "architecture zebra" in outcome.message


def test_a_folder_gets_a_link_by_its_own_name(downloads: Downloads, tmp_path: Path) -> None:
    folder, links = tmp_path / "model", downloads.base / "run"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes(b"{}")
    links.mkdir()
    (links / "model.gguf").symlink_to("/elsewhere")
    downloads.run(f"file://{folder}", "--engine", "vllm", "--link-dir", str(links))
    assert (links / "model").resolve() == folder
    assert not (links / "model.gguf").is_symlink()
