"""Which files of a listing are fetched: tables of cases."""

import json

import pytest
from ams_common.hub_files import RemoteFile, UnusableFiles, choose_files, weights_bytes
from ams_common.progress import Failure

INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})


def chosen(*paths: str, gguf: str | None = None, index: str | None = None, allow_pickle: bool = False) -> list[str]:
    listing = [RemoteFile(path, 1) for path in paths]
    content = index.encode() if index is not None else None
    files = choose_files(listing, where="hf://acme/m", gguf=gguf, index=content, allow_pickle=allow_pickle)
    return [file.path for file in files]


def refused(*paths: str, **options: str) -> Failure:
    with pytest.raises(UnusableFiles) as caught:
        chosen(*paths, **options)  # type: ignore[arg-type]
    return caught.value.failure


def test_takes_what_the_runtime_reads_and_weights_last() -> None:
    assert chosen(
        *(".gitattributes", "README.md", "LICENSE", "config.json", "generation_config.json", "merges.txt"),
        *("model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja", "figure.png"),
        "additional_chat_templates/tool.jinja",
    ) == [
        *("additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json", "generation_config.json"),
        *("merges.txt", "tokenizer.json", "tokenizer.model", "model.safetensors"),
    ]


@pytest.mark.parametrize(
    "extra",
    [
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "model.onnx"),
        *("onnx/model.onnx", "original/consolidated.00.pth", "original/params.json", "consolidated.safetensors"),
        *("model.fp16.safetensors", "tiny.Q4_0.gguf", "optimizer.pt", "trainer_state.json", "training_args.bin"),
        *("checkpoint-500/model.safetensors", "checkpoint-500/config.json", "adapter_model.safetensors"),
        *("manifest.json", "modeling_custom.py", "runs/events.out", "model.safetensors.index.json.bak"),
    ],
)
def test_leaves_out_other_formats_and_training_state(extra: str) -> None:
    assert chosen("config.json", "model.safetensors", extra) == ["config.json", "model.safetensors"]


def test_takes_the_shards_that_the_index_names() -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert chosen(
        "config.json", "model.safetensors.index.json", *names, "consolidated-00001.safetensors", index=INDEX
    ) == ["config.json", "model.safetensors.index.json", *names]


@pytest.mark.parametrize(
    ("paths", "options", "reason", "words"),
    [
        (["model.safetensors"], {}, "InvalidSource", "no config.json"),
        (["config.json", "README.md"], {}, "InvalidSource", "no weights"),
        (["config.json", "a.gguf", "b.gguf"], {}, "InvalidSource", "name one with ?file=: a.gguf, b.gguf"),
        (["config.json", "pytorch_model.bin"], {}, "PickledWeights", "AMS_ALLOW_PICKLE=true"),
        (["config.json", "optimizer.pt"], {}, "InvalidSource", "no weights"),
        (["a.gguf"], {"gguf": "c.gguf"}, "InvalidSource", "its GGUF files: a.gguf"),
        (["a.gguf", "model.safetensors"], {"gguf": "model.safetensors"}, "InvalidSource", "is none"),
        (["a-00001-of-00003.gguf"], {"gguf": "a-00001-of-00003.gguf"}, "InvalidSource", "one part of several"),
        (["config.json", "../evil.json", "model.safetensors"], {}, "InvalidSource", "outside its folder"),
        (["config.json", "/etc/x.json", "model.safetensors"], {}, "InvalidSource", "outside its folder"),
        (["config.json", "model.safetensors.index.json"], {"index": INDEX}, "InvalidSource", "is incomplete"),
        (["config.json", "model.safetensors.index.json"], {"index": "[]"}, "InvalidSource", "can't be read"),
    ],
)
def test_says_what_a_model_lacks(paths: list[str], options: dict[str, str], reason: str, words: str) -> None:
    failure = refused(*paths, **options)
    assert failure.reason == reason
    assert words in failure.message
    assert "hf://acme/m" in failure.message


def test_pickled_weights_are_taken_only_when_allowed_and_alone() -> None:
    assert chosen("config.json", "pytorch_model.bin", "optimizer.pt", allow_pickle=True) == [
        *("config.json", "pytorch_model.bin"),
    ]
    assert chosen("config.json", "pytorch_model.bin", "model.safetensors", allow_pickle=True) == [
        *("config.json", "model.safetensors"),
    ]


def test_a_gguf_file_is_all_that_is_taken() -> None:
    assert chosen("config.json", "q4/a.gguf", "b.gguf", "model.safetensors", gguf="q4/a.gguf") == ["q4/a.gguf"]


def test_the_size_of_the_weights_is_known_if_all_of_their_sizes_are() -> None:
    config, first, second = RemoteFile("config.json", None), RemoteFile("a.safetensors", 3), RemoteFile("b.gguf", 4)
    assert weights_bytes([config, first, second]) == 7
    assert weights_bytes([config, first, RemoteFile("c.safetensors", None)]) is None
