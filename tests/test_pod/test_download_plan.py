"""Which files are fetched, whether they fit, whether they are the locked ones: tables of cases."""

import json

import pytest
from ams_pod.download.failures import Failed
from ams_pod.download.plan import RemoteFile, check_lock, choose_files, parse_lock, plan_download
from hypothesis import given
from hypothesis import strategies as st

SPARE = 64 << 20  # more than is ever kept free beside the files
INDEX = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}})


def chosen(*paths: str, gguf: str | None = None, index: str | None = None, allow_pickle: bool = False) -> list[str]:
    listing = [RemoteFile(path, 1) for path in paths]
    content = index.encode() if index is not None else None
    files = choose_files(listing, where="hf://acme/m", gguf=gguf, index=content, allow_pickle=allow_pickle)
    return [file.path for file in files]


def refused(*paths: str, **options: str) -> Failed:
    with pytest.raises(Failed) as caught:
        chosen(*paths, **options)  # type: ignore[arg-type]
    return caught.value


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
        (["config.json", "a.gguf", "b.gguf"], {}, "InvalidSource", "name one with ?file=, as a.gguf, b.gguf"),
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
    failed = refused(*paths, **options)
    assert failed.failure.reason == reason
    assert words in failed.failure.message
    assert "hf://acme/m" in failed.failure.message


def test_pickled_weights_are_taken_only_when_allowed_and_alone() -> None:
    assert chosen("config.json", "pytorch_model.bin", "optimizer.pt", allow_pickle=True) == [
        *("config.json", "pytorch_model.bin"),
    ]
    assert chosen("config.json", "pytorch_model.bin", "model.safetensors", allow_pickle=True) == [
        *("config.json", "model.safetensors"),
    ]


def test_a_gguf_file_is_all_that_is_taken() -> None:
    assert chosen("config.json", "q4/a.gguf", "b.gguf", "model.safetensors", gguf="q4/a.gguf") == ["q4/a.gguf"]


def test_counts_what_is_there() -> None:
    files = [RemoteFile("a", 100), RemoteFile("b", 50)]
    plan = plan_download(files, {"a": 30, "b": 50}, folder="/models", free_bytes=1 << 30)
    assert (plan.total_bytes, plan.missing_bytes) == (150, 70)


def test_refuses_what_cannot_fit_with_the_numbers() -> None:
    with pytest.raises(Failed) as caught:
        plan_download([RemoteFile("a", 7 << 30)], {"a": 1 << 30}, folder="/models", free_bytes=2 << 30)
    assert caught.value.failure.reason == "DiskFull"
    assert "/models has 2.0 GiB free and 6.0 GiB more are needed" in caught.value.failure.message


def test_a_full_disk_is_no_matter_when_all_is_there() -> None:
    assert plan_download([RemoteFile("a", 9)], {"a": 9}, folder="/models", free_bytes=0).missing_bytes == 0


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 1 << 40), st.integers(0, 1 << 40))),
    st.integers(0, 1 << 45),
)
def test_a_plan_never_needs_more_than_is_free(files: dict[str, tuple[int, int]], free: int) -> None:
    listing = [RemoteFile(path, size) for path, (size, _) in files.items()]
    present = {path: there for path, (_, there) in files.items()}
    missing = sum(max(0, size - there) for size, there in files.values())
    if missing > free:
        with pytest.raises(Failed):
            plan_download(listing, present, folder="/models", free_bytes=free)
    elif missing + SPARE <= free:
        plan = plan_download(listing, present, folder="/models", free_bytes=free)
        assert plan.missing_bytes == missing <= plan.total_bytes


A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("lock", "digests", "words"),
    [
        ({}, {"model.safetensors": A}, None),
        ({"model.safetensors": A}, {"model.safetensors": A, "config.json": B}, None),
        ({"model.safetensors": A}, {"model.safetensors": None}, None),
        ({"model.safetensors": A}, {"model.safetensors": B}, "model.safetensors has sha256 bbb"),
        ({"config.json": A, "model.safetensors": A}, {"model.safetensors": A}, "config.json is locked but not part"),
        ({"config.json": A}, {"config.json": A, "model.safetensors": A}, "the lock doesn't name it"),
    ],
)
def test_compares_with_the_lock(lock: dict[str, str], digests: dict[str, str | None], words: str | None) -> None:
    if words is None:
        check_lock(lock, digests)
        return
    with pytest.raises(Failed) as caught:
        check_lock(lock, digests)
    assert caught.value.failure.reason == "LockMismatch"
    assert words in caught.value.failure.message


@pytest.mark.parametrize("text", ["[]", "{", '{"a": 1}', '{"a": "xyz"}', f'{{"a": "{A[:-1]}"}}'])
def test_a_lock_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Failed) as caught:
        parse_lock(text)
    assert caught.value.failure.reason == "InvalidLock"


def test_reads_a_lock() -> None:
    assert parse_lock("") == {}
    assert parse_lock(json.dumps({"a": A.upper()})) == {"a": A}
