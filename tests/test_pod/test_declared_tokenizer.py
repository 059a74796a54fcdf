"""The tokenizer of a folder is the one that transformers would make, whichever way it is made here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from ams_pod.engines.port import LoadFailed
from ams_pod.engines.prompts import folder as reading
from ams_pod.engines.prompts.folder import load_declared_tokenizer, load_tokenizer
from ams_pod.engines.prompts.text import TextPrompts
from fakehub import checkpoints
from tokenizers import Tokenizer
from transformers import AutoTokenizer

TEXTS = ["Hello world", "<|im_start|>user\nHi<|im_end|>", "  two  spaces\u00e9 \U0001f600", ""]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("llama", tmp_path_factory.mktemp("declared") / "llama")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "llama")
    return tmp_path / "llama"


def declare(folder: Path, model_type: str = "llama", **fields: Any) -> None:
    for name, values in (("tokenizer_config.json", fields), ("config.json", {"model_type": model_type})):
        told = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**told, **values}))


def as_text(values: dict[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


@pytest.mark.parametrize(
    "kind", ["TokenizersBackend", "PreTrainedTokenizerFast", "Qwen2Tokenizer", "LlamaTokenizerFast"]
)
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral", "phi3"])
def test_it_is_transformers_own(kind: str, model_type: str, folder: Path) -> None:
    declare(folder, model_type, tokenizer_class=kind)
    theirs, ours = AutoTokenizer.from_pretrained(folder, local_files_only=True), load_declared_tokenizer(folder)
    assert type(ours) is type(theirs)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert as_text(ours.init_kwargs) == as_text(theirs.init_kwargs)
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.get_vocab() == theirs.get_vocab()
    assert [ours(text).input_ids for text in TEXTS] == [theirs(text).input_ids for text in TEXTS]
    assert ours.chat_template == theirs.chat_template


@pytest.mark.parametrize("name", ["special_tokens_map.json", "added_tokens.json"])
def test_older_files_count_as_they_do_there(name: str, folder: Path) -> None:
    declare(folder, tokenizer_class="TokenizersBackend")
    told = {"special_tokens_map.json": {"pad_token": "<|im_end|>"}, "added_tokens.json": {"<extra>": 4000}}[name]
    (folder / name).write_text(json.dumps(told))
    theirs, ours = AutoTokenizer.from_pretrained(folder, local_files_only=True), load_declared_tokenizer(folder)
    assert ours.backend_tokenizer.to_str() == theirs.backend_tokenizer.to_str()
    assert ours.special_tokens_map == theirs.special_tokens_map


def test_the_vocabulary_is_parsed_once_and_not_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(folder, tokenizer_class="TokenizersBackend")
    made: list[Tokenizer] = []

    class Counted:
        @staticmethod
        def from_file(path: str) -> Tokenizer:
            made.append(Tokenizer.from_file(path))
            return made[-1]

    monkeypatch.setattr(reading, "Tokenizer", Counted)
    assert load_tokenizer(folder).backend_tokenizer is made[0]
    assert len(made) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": 1}', b"\xff\xfe"])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_damaged_files_fail_to_load(name: str, content: bytes, folder: Path) -> None:
    declare(folder, tokenizer_class="TokenizersBackend")
    (folder / name).write_bytes(content)
    if (name, content) == ("tokenizer_config.json", b'{"model": 1}'):
        assert load_declared_tokenizer(folder).backend_tokenizer is not None  # it says nothing of a class
        return
    with pytest.raises(LoadFailed, match="tokenizer"):
        load_declared_tokenizer(folder)


def test_the_vocabularys_size_and_longest_token_are_counted_when_asked_for(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    prompts, vocabulary = TextPrompts(tokenizer, 64), tokenizer.get_vocab()
    assert prompts.vocabulary_size == max(vocabulary.values()) + 1
    assert prompts.thinks == ("<think>" in vocabulary and "</think>" in vocabulary)
