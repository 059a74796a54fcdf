"""Weights for engines of other makes: a GGUF file stays as it is, and a link leads to what the engine loads."""

import json
from pathlib import Path

import pytest
from ams_cli import weights
from ams_common.resource.parse import parse_model_deployment
from ams_common.source import parse_source
from ams_pod.engines.prompts.embedding import Layer, read_recipe, scores_pairs
from ams_pod.engines.prompts.folder import read_model_config
from ams_pod.layout import find_model
from ams_pod.weights_link import later_words
from fakehub import checkpoints
from fakehub.embedding_gguf import LAST, MEAN, SCORE, bert_gguf, qwen3_gguf
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


@pytest.mark.parametrize(("kind", "pooling"), [("bert", MEAN), ("bert_reranker", SCORE), ("qwen3_embedding", LAST)])
def test_a_gguf_file_of_an_embedding_model_tells_how_it_pools(
    downloads: Downloads, tmp_path: Path, kind: str, pooling: int
) -> None:
    folder, links = checkpoints.make(kind, tmp_path / kind), downloads.base / "run"
    made = (qwen3_gguf if kind.startswith("qwen3") else bert_gguf)(folder, tmp_path / "m.gguf", pooling=pooling)
    outcome = downloads.run(f"file://{made}", "--engine", "llamacpp", "--link-dir", str(links))
    found = {MEAN: "mean", SCORE: "rank", LAST: "last"}[pooling]
    assert (links / "pooling").read_text() == found
    assert later_words(outcome.folder) == {"{pooling}": found, "{longest-text}": (links / "longest-text").read_text()}
    assert int((links / "longest-text").read_text()) == (4096 if kind.startswith("qwen3") else 512)
    assert (outcome.folder / "modules.json").is_file() == (pooling != SCORE)
    assert scores_pairs(read_model_config(outcome.folder)) == (pooling == SCORE)
    if pooling != SCORE:
        recipe = read_recipe(outcome.folder)
        assert (recipe.pools, recipe.layers, recipe.said) == ((found,), [Layer("normalize")], True)
    assert weights_family(outcome.folder) == "embedding"
    again = downloads.run(f"file://{made}", "--engine", "llamacpp", "--link-dir", str(links))
    assert again.folder == outcome.folder
    converted = downloads.run(f"file://{made}")
    assert converted.reason == "ConversionFailed"
    assert "makes embeddings or scores of texts" in converted.message
    assert "Take the engine llamacpp" in converted.message


def weights_family(folder: Path) -> str:
    """As the command line finds it."""
    given = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "m"},
        "spec": {"model": {"source": "hf://a/b"}},
    }
    row = weights.family(parse_model_deployment(given), folder)
    assert row is not None
    return row.name


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
