"""The second load of a model: what the first one left for it, and that nothing found there can do harm."""

import json
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod import derived
from ams_pod.derived import derived_folder, identity_of, read_derived, write_derived
from ams_pod.engines.builtin import choosing
from ams_pod.engines.builtin.causal_lm import CausalLmEngine
from ams_pod.engines.builtin.families import text
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model import own_logits
from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.named import NotAsNamed, load_as_named
from ams_pod.engines.builtin.model.weights import load_weights
from fakehub import checkpoints
from fakehub.tiny_gguf import convert, make_gguf
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

IDS = [5, 9, 17, 3, 40, 41, 42, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("llama", tmp_path_factory.mktemp("second") / "llama")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A model's folder in a models folder, which is the folder above."""
    shutil.copytree(made, tmp_path / "models" / "llama")
    return tmp_path / "models" / "llama"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How the model was loaded, each time."""
    seen: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            result = function(*arguments, **options)
            seen.append(name)
            return result

        return call

    monkeypatch.setattr(choosing, "load_weights", noted("transformers", choosing.load_weights))
    monkeypatch.setattr(choosing, "load_as_named", noted("as named", choosing.load_as_named))
    return seen


def load(folder: Path, dtype: torch.dtype = torch.bfloat16, models: Path | None = None, **more: Any) -> CausalLmEngine:
    settings = ServeSettings(
        name="m", source="file:///m", concurrent_requests=2, context_tokens=64,
        models_dir=str(models or folder.parent), **more,
    )  # fmt: skip
    return text.open_family(LoadRequest(folder, settings, "cpu", dtype, lambda events: None, lambda *each: None))


def logits(engine: CausalLmEngine) -> Tensor:
    """Of a prompt, and of a token behind it."""
    forward = engine.core._forward
    forward.reset()
    read = forward.step(Batch([], [], [], [], [Chunk(0, 0, IDS, True)])).clone()
    return torch.cat((read, forward.step(Batch([0], [11], [len(IDS)], [0], []))))


def kept(folder: Path) -> list[Path]:
    return sorted((folder / "derived").glob("logits-*"))


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_second_load_computes_bit_for_bit_what_the_first_does(
    kind: str, dtype: torch.dtype, tmp_path: Path, loads: list[str]
) -> None:
    folder = checkpoints.make(kind, tmp_path / kind, dtype=str(dtype).removeprefix("torch."))
    first, second = load(folder, dtype), load(folder, dtype)
    assert loads == ["transformers", "as named"]
    assert torch.equal(logits(first), logits(second))
    assert replace(first.info, quantization_reason="") == replace(second.info, quantization_reason="")
    assert first.capabilities == second.capabilities


@pytest.mark.parametrize("quantization", ["4bit", "none"])
def test_groups_of_a_gguf_file_are_loaded_again_as_they_are(
    quantization: str, tmp_path: Path, loads: list[str]
) -> None:
    convert(make_gguf(tmp_path / "m.gguf", kind="Q4_1"))
    first, second = (load(tmp_path / "m", quantization=quantization) for _ in range(2))
    kept_so = quantization == "4bit"
    assert loads == ["transformers", "as named" if kept_so else "transformers"]
    assert torch.equal(logits(first), logits(second))
    assert first.info.weights_bytes == second.info.weights_bytes
    assert first.info.parameters == second.info.parameters


def test_weights_that_are_quantized_or_converted_are_loaded_by_transformers(
    folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[int] = []
    real = choosing._keep
    monkeypatch.setattr(choosing, "_keep", lambda *given: kept.append(1) or real(*given))
    for quantization, dtype in (("8bit", torch.bfloat16), ("none", torch.float32)):
        for _ in range(3):
            load(folder, dtype, quantization=quantization)
    assert loads == ["transformers"] * 6
    assert len(kept) == 1, "the first start can't know yet that nobody will ask for it"


HOSTILE = {
    "empty": b"",
    "half": None,
    "garbage": b"\x08\0\0\0\0\0\0\0" + os.urandom(64),
    "a length beyond all": b"\xff" * 64,
    "pickled": pickle.dumps({"logits": 1}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_none_is_made_again(kind: str, folder: Path, loads: list[str]) -> None:
    expected = logits(load(folder))
    (path,) = kept(folder)
    good = path.read_bytes()
    path.write_bytes(HOSTILE[kind] if HOSTILE[kind] is not None else good[: len(good) // 2])
    assert torch.equal(logits(load(folder)), expected)
    assert loads[-1] == "transformers"
    assert path.read_bytes() == good


@pytest.mark.parametrize("kind", ["NaN", "another shape", "another model's", "another name", "whole numbers"])
def test_logits_that_are_not_the_models_lead_to_the_whole_check(kind: str, folder: Path, loads: list[str]) -> None:
    expected = logits(load(folder))
    (path,) = kept(folder)
    right = load_file(path)["logits"]
    wrong = {
        "NaN": {"logits": right * float("nan")},
        "another shape": {"logits": right[:, :-1].contiguous()},
        "another model's": {"logits": right.flip(-1).contiguous()},
        "another name": {"other": right},
        "whole numbers": {"logits": right.int()},
    }[kind]
    save_file(wrong, path)
    assert torch.equal(logits(load(folder)), expected)
    assert loads[-1] == "transformers"
    assert torch.equal(load_file(path)["logits"], right)


@pytest.mark.parametrize("kind", ["a folder", "a link", "a pipe", "too large"])
def test_what_is_no_plain_file_is_not_read(kind: str, folder: Path, loads: list[str], tmp_path: Path) -> None:
    load(folder)
    (path,) = kept(folder)
    content = path.read_bytes()
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind == "a link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    load(folder)
    assert loads[-1] == "transformers"


def test_other_weights_are_never_taken_for_those_that_were_checked(folder: Path, loads: list[str]) -> None:
    load(folder)
    weights = folder / "model.safetensors"
    status, tensors = weights.stat(), load_file(weights)
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name] = tensors[name].flip(0).contiguous()
    save_file(tensors, weights, {"format": "pt"})
    changed = logits(load(folder))
    assert loads[-1] == "transformers"
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))  # as if nothing had happened
    assert weights.stat().st_size == status.st_size
    assert torch.equal(logits(load(folder)), changed)
    assert loads[-1] == "transformers"


def test_a_config_that_changed_is_checked_anew(folder: Path, loads: list[str]) -> None:
    load(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "rms_norm_eps": 0.1}))
    load(folder)
    assert loads == ["transformers", "transformers"]


def test_another_version_of_what_computes_checks_anew(
    folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    monkeypatch.setattr(own_logits, "installed_version", lambda name: "99")
    load(folder)
    assert loads == ["transformers", "transformers"]
    assert len(kept(folder)) == 2


def test_where_nothing_can_be_written_a_model_is_served_all_the_same(folder: Path, loads: list[str]) -> None:
    (folder / "derived").write_text("in the way")
    for _ in range(2):
        load(folder)
    assert loads == ["transformers", "transformers"]
    assert (folder / "derived").read_text() == "in the way"


def test_a_full_disk_leaves_nothing_behind(folder: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(derived.os, "replace", replace)
        load(folder)
    assert list((folder / "derived").iterdir()) == []
    load(folder)
    load(folder)
    assert loads == ["transformers", "transformers", "as named"]


def test_a_folder_of_somebody_elses_stays_as_it_is(made: Path, tmp_path: Path, loads: list[str]) -> None:
    before = sorted(made.rglob("*"))
    (tmp_path / "models").mkdir()
    for _ in range(2):
        load(made, models=tmp_path / "models")
    assert loads == ["transformers", "as named"]
    assert sorted(made.rglob("*")) == before
    assert len(list((tmp_path / "models" / "files").glob("llama-*/derived/logits-*"))) == 1


def test_no_models_folder_is_made_for_it(made: Path, tmp_path: Path) -> None:
    load(made, models=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_many_that_write_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "derived" / "logits-1.safetensors"
    contents = [bytes([number]) * (1 << 20) for number in range(8)]
    threads = [Thread(target=write_derived, args=(path, lambda file, each=each: file.write(each))) for each in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_derived(path, 1 << 20) in contents
    assert list(path.parent.iterdir()) == [path]


def test_files_of_a_kind_are_few_and_unfinished_ones_go(tmp_path: Path) -> None:
    for number in range(7):
        path = tmp_path / f"logits-{number}.safetensors"
        assert write_derived(path, lambda file: file.write(b"x"))
        os.utime(path, (number, number))
    (tmp_path / "other-1").write_bytes(b"")
    (tmp_path / ".logits-1.safetensors.12.ab").write_bytes(b"half")
    os.utime(tmp_path / ".logits-1.safetensors.12.ab", (1, 1))
    (tmp_path / ".logits-2.safetensors.13.cd").write_bytes(b"being written")
    assert write_derived(tmp_path / "logits-9.safetensors", lambda file: file.write(b"x"))
    names = sorted(each.name for each in tmp_path.iterdir())
    newest = [f"logits-{number}.safetensors" for number in (4, 5, 6, 9)]
    assert names == [".logits-2.safetensors.13.cd", *newest, "other-1"]


def test_a_link_to_the_models_folder_and_back_are_told_apart(tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "a").mkdir(parents=True)
    assert derived_folder(models, models / "a") == models / "a" / "derived"
    outside = derived_folder(models, tmp_path / "x" / "a")
    assert outside is not None
    assert outside.parent.parent == models / "files"
    assert outside != derived_folder(models, tmp_path / "y" / "a")


def test_identity_is_of_files_and_of_what_is_told(folder: Path) -> None:
    one = identity_of(folder, [1])
    assert one == identity_of(folder, [1])
    assert one != identity_of(folder, [2])
    (folder / "notes.txt").write_text("no matter")
    assert one == identity_of(folder, [1])
    os.utime(folder / "model.safetensors", (1, 1))
    assert one != identity_of(folder, [1])


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_every_tensor_is_where_transformers_puts_it(kind: str, tmp_path: Path) -> None:
    folder, placement = checkpoints.make(kind, tmp_path / kind), Placement("cpu", torch.bfloat16)
    ours = load_as_named(AutoModelForCausalLM, folder, placement)
    theirs = load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent: None)
    for found, expected in ((ours.state_dict(), theirs.state_dict()), (buffers(ours), buffers(theirs))):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert all(found[name].dtype == expected[name].dtype for name in expected)
    assert not ours.training
    assert ours.config._attn_implementation == theirs.config._attn_implementation
    ids = torch.tensor([IDS])
    assert torch.equal(ours(ids).logits, theirs(ids).logits)


def buffers(model: Any) -> dict[str, Tensor]:
    return dict(model.named_buffers())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model.norm.weight": None}, "lack model.norm.weight"),
        ({"model.extra.weight": torch.zeros(1)}, "it has no model.extra.weight"),
        ({"lm_head.weight": torch.zeros(2, 2)}, "there twice"),
        ({"model.norm.weight": torch.zeros(3)}, r"a tensor is torch.float32 \(3,\)"),
    ],
)
def test_whatever_is_to_be_made_up_or_converted_is_left_to_transformers(
    folder: Path, change: dict[str, Tensor | None], words: str
) -> None:
    tensors = {**load_file(folder / "model.safetensors"), **change}
    save_file({name: each for name, each in tensors.items() if each is not None}, folder / "model.safetensors")
    with pytest.raises(NotAsNamed, match=words):
        load_as_named(AutoModelForCausalLM, folder, Placement("cpu", torch.bfloat16))


def test_an_index_may_name_files_of_its_folder_alone(folder: Path) -> None:
    placement = Placement("cpu", torch.bfloat16)
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    with pytest.raises(NotAsNamed, match="No such file"):
        load_as_named(AutoModelForCausalLM, folder, placement)
    for name, words in (("../llama/model-1.safetensors", "another folder"), ("model-2.safetensors", "No such file")):
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        with pytest.raises(NotAsNamed, match=words):
            load_as_named(AutoModelForCausalLM, folder, placement)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "model-1.safetensors"}}))
    assert load_as_named(AutoModelForCausalLM, folder, placement).config.model_type == "llama"
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(NotAsNamed, match="index"):
        load_as_named(AutoModelForCausalLM, folder, placement)
