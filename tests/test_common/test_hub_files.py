"""Which files of a listing are fetched: tables of cases."""

import json

import pytest
from ams_common.hub_files import RemoteFile, UnusableFiles, choose_files, described, is_inside, weights_bytes
from ams_common.progress import Failure
from ams_common.source import HubSource, parse_source

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


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a" * 240, True),
        ("a" * 241, False),
        ("é" * 120, True),
        ("é" * 121, False),
        ("/".join(["a" * 199] * 10), True),  # 2,000 bytes with a separator for each part
        ("/".join(["a" * 199] * 9 + ["a" * 200]), False),
        ("/".join("a" * 900), True),
        ("a/../b", False),
        ("a/./b", False),
        ("a//b", False),
        ("/a", False),
        ("", False),
        ("a\nb", False),
        ("a\\b", False),
        ("a\ud800", False),
    ],
)
def test_a_path_that_may_be_joined(path: str, inside: bool) -> None:
    assert is_inside(path) is inside


def test_pickles_come_with_their_index_and_safetensors_without() -> None:
    index, shard = "pytorch_model.bin.index.json", "pytorch_model-00001-of-00001.bin"
    assert chosen("config.json", index, shard, allow_pickle=True) == ["config.json", index, shard]
    assert chosen("config.json", index, "model.safetensors", allow_pickle=True) == ["config.json", "model.safetensors"]
    assert chosen("config.json", shard, allow_pickle=True) == ["config.json", shard]


def test_an_index_may_have_thirty_two_mebibytes() -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    paths = ["config.json", "model.safetensors.index.json", *names]
    assert len(chosen(*paths, index=INDEX + " " * ((32 << 20) - len(INDEX)))) == 4
    assert "is larger than 33,554,432 bytes" in refused(*paths, index=INDEX + " " * (32 << 20)).message


def test_names_from_outside_are_shortened() -> None:
    message = refused("config.json", "../" + "x" * 900).message
    assert len(message) < 420
    names = [f"part-{number}.gguf" for number in range(9)]
    assert (
        "part-0.gguf, part-1.gguf, part-2.gguf, part-3.gguf, part-4.gguf, …" in refused("config.json", *names).message
    )
    assert refused("config.json", *names[:5]).message.endswith("part-4.gguf.")


def test_a_listing_is_named_by_the_first_of_its_commit() -> None:
    source = parse_source("hf://acme/m@main")
    assert isinstance(source, HubSource)
    assert described(source, "0123456789abcdef" + "0" * 24) == "hf://acme/m@0123456789ab"


def test_the_size_of_weights_is_known_if_all_are() -> None:
    files = [RemoteFile("config.json", None), RemoteFile("a.safetensors", 5), RemoteFile("b.gguf", 7)]
    assert weights_bytes(files) == 12
    assert weights_bytes([*files, RemoteFile("c.safetensors", None)]) is None
    assert weights_bytes([]) == 0


def test_a_signature_comes_first_and_must_be_there() -> None:
    listing = [RemoteFile(path, 1) for path in ("config.json", "model.safetensors", "model.sig", "a.gguf")]
    for gguf, rest in ((None, ["config.json", "model.safetensors"]), ("a.gguf", ["a.gguf"])):
        files = choose_files(listing, where="w", gguf=gguf, index=None, allow_pickle=False, signature="model.sig")
        assert [file.path for file in files] == ["model.sig", *rest]
    with pytest.raises(UnusableFiles, match=r"w has no other\.sig, which spec\.model\.signature asks for") as caught:
        choose_files(listing, where="w", gguf=None, index=None, allow_pickle=False, signature="other.sig")
    assert caught.value.failure.reason == "SignatureMismatch"
