"""Folders of weights that nobody should serve: refused once, when they are loaded, with a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from ams_common.config_bounds import absurd_size
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.builtin.memory import placing
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.weights import load_weights
from ams_pod.engines.port import LoadFailed, SamplingDefaults
from ams_pod.engines.prompts.folder import read_model_config
from ams_pod.engines.prompts.text import sampling_defaults
from fakehub import checkpoints
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

REAL = {
    "num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248, "num_attention_heads": 128,
    "vocab_size": 256_000, "max_position_embeddings": 10_485_760, "vision_config": {"depth": 32, "hidden_size": 1280},
    "num_experts": 384, "rope_scaling": None, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers is 10,000,000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"hidden_size": 1 << 40}, "hidden_size is 1,099,511,627,776"),
        ({"vocab_size": 10**30}, "vocab_size is a number of more than 18 digits"),
        ({"vocab_size": 10**400}, "vocab_size is a number of more than 18 digits"),
        ({"vision_config": {"depth": 10**6}}, "vision_config.depth is 1,000,000"),
        ({"text_config": {"a": {"num_experts": 10**9}}}, "text_config.a.num_experts is 1,000,000,000"),
        ({"num_attention_heads": 1e300}, "num_attention_heads is a number of more than 18 digits"),
    ],
)
def test_sizes_that_no_model_has(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    assert absurd_size(REAL) is None
    assert words in str(absurd_size({**REAL, **changes}))
    (tmp_path / "config.json").write_text(json.dumps({**REAL, **changes}))
    with pytest.raises(LoadFailed, match="models have from 0 to"):
        read_model_config(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":"\xff"}', b"[]", b"", b'{"a":1e999}'])
def test_a_config_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(LoadFailed, match=r"config\.json"):
        read_model_config(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b'{"do_sample":true,"temperature":"hot"}',
        b'{"do_sample":true,"temperature":true}',
        b'{"do_sample":true,"top_p":7}',
        b'{"do_sample":true,"top_k":-1}',
        b'{"do_sample":true,"top_k":[]}',
        b'{"repetition_penalty":0}',
        b'{"repetition_penalty":1e999}',
        b"[" * 200_000,
        b'{"\xff"',
        b"[]",
    ],
)
def test_a_bad_generation_config_is_a_failure_of_the_load(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_bytes(content)
    with pytest.raises(LoadFailed, match=r"generation_config\.json can't be used"):
        sampling_defaults(tmp_path)


def test_a_generation_config_is_read_as_far_as_it_counts(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == SamplingDefaults()
    path = tmp_path / "generation_config.json"
    path.write_text('{"temperature":"unused","top_k":-1,"repetition_penalty":1.1,"x":[[]]}')
    assert sampling_defaults(tmp_path) == SamplingDefaults(repetition_penalty=1.1)
    path.write_text('{"do_sample":true,"temperature":1,"top_p":0.8,"top_k":20,"repetition_penalty":null}')
    assert sampling_defaults(tmp_path) == SamplingDefaults(1.0, 0.8, 20)


@pytest.mark.parametrize("bad", ["all", "one"])
def test_weights_of_nan_are_not_served(bad: str, tmp_path: Path) -> None:
    folder = checkpoints.make("llama", tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    broken = {
        name: torch.full_like(tensor, float("nan")) if bad == "all" or name.endswith("norm.weight") else tensor
        for name, tensor in tensors.items()
    }
    placement = Placement("cpu", torch.float32, "none", "")
    load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent=None: None)
    save_file(broken, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match="are not numbers"):
        load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent=None: None)


def test_one_nan_anywhere_in_the_weights_is_found(tmp_path: Path) -> None:
    """Not only where a tensor begins: what the model's own forward computes at load shows it."""
    folder = checkpoints.make("llama", tmp_path / "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][5, 70] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LoadFailed, match="is no number"):
        load_engine(
            folder,
            ServeSettings(name="m", source=f"file://{folder}"),
            lambda events: None,
            lambda phase, percent=None: None,
        )


@pytest.mark.parametrize(
    "header", [b"[]", b'{"a":7}', b'{"a":{"shape":["x"]}}', b'{"a":{"shape":[-1]}}', b"[" * 100_000]
)
def test_a_header_of_no_sense_has_no_tensors(header: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert list(placing._tensors(tmp_path)) == []
