"""What a GGUF file says of how it is computed: it is computed so, or the file is refused by that name."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ams_common.progress import Failure
from ams_pod.engines.builtin.model import gguf as converting
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.gguf_file import read_gguf
from ams_pod.engines.builtin.model.gguf_folder import plan
from ams_pod.engines.builtin.model.gguf_rope import FACTORS, rope_parameters
from ams_pod.engines.builtin.model.gguf_settings import NotComputed
from ams_pod.engines.builtin.model.stack import find_stack
from fakehub.tiny_gguf import convert, make_gguf
from test_pod import engine_harness
from test_pod.engine_harness import Driver, forward_of, load_model
from transformers import AutoConfig, AutoModelForCausalLM

ORIGINAL, LENGTH = 64, 400
YARN = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": ORIGINAL,
}


def factors_of(theta: float, head: int, factor: float, low: float, high: float, original: int) -> Any:
    """As files have them: Llama 3's scaling in float32, a factor for each rotary frequency."""
    waves = 2 * math.pi * torch.tensor(theta) ** (torch.arange(0, head, 2) / head)
    smooth = ((original / waves - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).numpy().astype(np.float32)


def failure(path: Path) -> Failure:
    with pytest.raises(converting._NotConverted) as caught:
        convert(path)
    return caught.value.failure


def load(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def reference(path: Path, **changes: Any) -> Any:
    """transformers' model with the file's weights, rounded as the folder's are, and this in its configuration."""
    read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    known = read.config.to_dict()
    known.pop("quantization_config", None)
    model: Any = type(read)(AutoConfig.for_model(**{**known, **changes}))
    model.load_state_dict({name: weight.bfloat16().float() for name, weight in read.state_dict().items()})
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    tokens = torch.tensor([np.random.default_rng(7).integers(3, 200, LENGTH).tolist()])
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=tokens).logits
    return found


def apart(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest distance of two logits beyond the original context, as a share of their spread."""
    return float((first - second)[:, ORIGINAL:].abs().max() / second[:, ORIGINAL:].std())


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 1e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
YARN_HERE = {
    "rope_type": "yarn", "rope_theta": 1e5, "factor": 4.0, "original_max_position_embeddings": ORIGINAL,
}  # fmt: skip
LINEAR = {"rope_type": "linear", "rope_theta": 1e5, "factor": 4.0}
CASES: list[tuple[str, str, dict[str, Any], bool, dict[str, Any]]] = [
    ("llama", "F16", {}, True, LLAMA3),
    ("llama", "IQ4_NL", {}, True, LLAMA3),
    ("llama", "F16", YARN, False, YARN_HERE),
    ("qwen2", "F16", YARN, False, YARN_HERE),
    ("qwen3", "F16", YARN, False, YARN_HERE),
    (
        "qwen3", "F16", {**YARN, "rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0}, False,
        {**YARN_HERE, "beta_fast": 16.0, "beta_slow": 2.0},
    ),
    (
        "llama", "F16", {**YARN, "rope.scaling.attn_factor": 1.5}, False,
        {**YARN_HERE, "attention_factor": 1.5 * (0.1 * math.log(4) + 1)},
    ),
    ("llama", "F16", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, False, LINEAR),
    ("qwen2", "IQ4_NL", {"rope.scale_linear": 4.0}, False, LINEAR),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "kind", "settings", "has_factors", "rope"), CASES)
def test_positions_beyond_the_original_context_turn_as_the_file_says(
    tmp_path: Path,
    architecture: str,
    kind: str,
    settings: dict[str, Any],
    has_factors: bool,
    rope: dict[str, Any],
) -> None:
    hidden, head = 128, 128 if architecture == "qwen3" else 32
    tensors = {FACTORS: factors_of(1e5, head, 8, 1, 4, ORIGINAL)} if has_factors else {}
    path = make_gguf(
        tmp_path / "m.gguf", architecture=architecture, kind=kind, hidden=hidden, settings=settings, tensors=tensors
    )
    model, expected, plain = load(convert(path)), reference(path, rope_parameters=rope), reference(path)
    assert apart(logits(model), logits(expected)) < 1e-3
    assert apart(logits(plain), logits(expected)) > 0.1, "it would go unnoticed"
    ours, theirs = (Decoder(find_stack(each), 1, LENGTH).rotary(torch.arange(LENGTH)) for each in (model, expected))
    for own, other in zip(ours, theirs, strict=True):
        assert torch.allclose(own, other, atol=2e-4)


def test_answers_to_long_prompts_are_those_of_the_scaled_model(tmp_path: Path) -> None:
    factors = factors_of(1e5, 32, 8, 1, 4, ORIGINAL)
    path = make_gguf(tmp_path / "m.gguf", hidden=128, tensors={FACTORS: factors}, seed=3)
    expected, plain = reference(path, rope_parameters=LLAMA3), reference(path)
    served = Driver(forward_of("flat", load_model(convert(path)), 1, LENGTH + 32))
    ids = np.random.default_rng(1).integers(3, 200, LENGTH).tolist()
    _, outcome = served.submit(ids, 24, ignore_eos=True)
    served.run()
    assert outcome.tokens == greedy(expected, ids)
    assert outcome.tokens != greedy(plain, ids), "it would go unnoticed"


def greedy(model: Any, ids: list[int]) -> list[int]:
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return engine_harness.reference(model, ids, 24)


@pytest.mark.parametrize(
    ("theta", "head", "numbers"),
    [
        (5e5, 128, (8.0, 1.0, 4.0, 8192)),  # Llama 3.1
        (5e5, 64, (32.0, 1.0, 4.0, 8192)),  # Llama 3.2
        (1e6, 128, (2.5, 0.7, 3.3, 1000)),
        (1e5, 16, (8.0, 1.0, 4.0, 64)),  # one frequency between the wavelengths
        (5e5, 128, (16.0, 1.0, 1.5, 8192)),
        (1e4, 16, (4.0, 1.0, 1.1, 4096)),  # none
        (1e4, 64, (4.0, 1.0, 4.0, 1 << 15)),  # none that is divided by the whole factor
        (1e4, 64, (4.0, 1.0, 4.0, 16)),
    ],
)
def test_llamas_scaling_is_found_by_its_factors(
    theta: float, head: int, numbers: tuple[float, float, float, int]
) -> None:
    given = factors_of(theta, head, *numbers)
    found = rope_parameters({"rope.freq_base": theta}, head=head, context=1 << 17, factors=given.astype(np.float64))
    factor, low, high, original = (float(found[name]) for name in (
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    ))  # fmt: skip
    again = factors_of(theta, head, factor, low, high, int(original))
    assert np.allclose(1 / again, 1 / given, atol=1e-5, rtol=0)
    if numbers[3] == 8192 and numbers[0] != 16.0:
        assert (factor, low, high, original) == numbers


@pytest.mark.parametrize(
    "factors",
    [
        np.linspace(1, 0.5, 64),
        np.linspace(1, 8, 64),
        np.full(64, np.nan),
        np.r_[np.ones(63), np.inf],
        np.ones(63) * 2,
        np.r_[8.0, np.ones(63)],
        np.random.default_rng(0).uniform(1, 8, 64),
    ],
)
def test_factors_of_another_make_are_refused(factors: Any) -> None:
    with pytest.raises(NotComputed, match=FACTORS):
        rope_parameters({"rope.freq_base": 5e5}, head=128, context=4096, factors=factors)


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("llama", {"attention.sliding_window": 128}, "attention.sliding_window is 128"),
        ("qwen2", {"attention.sliding_window": 128}, "attention.sliding_window is 128"),
        ("llama", {"attention.scale": 0.5}, "attention.scale is 0.5"),
        ("llama", {"attention.causal": False}, "attention.causal is False"),
        ("llama", {"attention.clamp_kqv": 8.0}, "attention.clamp_kqv is 8"),
        ("llama", {"attention.value_length": 8}, "attention.value_length is 8"),
        ("llama", {"rope.dimension_count": 8}, "rope.dimension_count is 8"),
        ("llama", {"logit_scale": 0.25}, "logit_scale is 0.25"),
        ("llama", {"residual_scale": 0.25}, "residual_scale is 0.25"),
        ("llama", {"embedding_scale": 12.0}, "embedding_scale is 12"),
        ("llama", {"expert_count": 8}, "expert_count is 8"),
        ("llama", {"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30"),
        ("qwen3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50"),
        ("qwen3", {"something.new": "x"}, "something.new is 'x'"),
        ("qwen3", {"rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ("qwen3", {"rope.scaling.type": "x\n" * 999}, "rope.scaling.type"),
        ("qwen3", {"rope.scaling.attn_factor": 2.0}, "rope.scaling.attn_factor is 2"),
        ("qwen3", {**YARN, "rope.scaling.yarn_ext_factor": 0.5}, "rope.scaling.yarn_ext_factor is 0.5"),
        ("qwen3", {**YARN, "rope.scaling.yarn_attn_factor": 1.0}, "rope.scaling.yarn_attn_factor is 1"),
        ("qwen3", {**YARN, "rope.scaling.yarn_log_multiplier": 0.1}, "rope.scaling.yarn_log_multiplier is 0.1"),
        ("qwen3", {**YARN, "rope.scaling.yarn_beta_fast": 0.5}, "rope.scaling.yarn_beta"),
        ("qwen3", {**YARN, "rope.scaling.factor": -4.0}, "rope.scaling.factor is -4"),
        ("qwen3", {"rope.freq_base": 0.5}, "rope.freq_base is 0.5"),
        ("qwen3", {"rope.freq_base": float("nan")}, "rope.freq_base is nan"),
    ],
)
def test_what_is_not_computed_is_refused_by_name(
    tmp_path: Path, architecture: str, settings: dict[str, Any], words: str
) -> None:
    for kind in ("Q4_1", "IQ4_NL"):  # as it is, and unpacked
        file = make_gguf(tmp_path / f"{kind}.gguf", architecture=architecture, kind=kind)
        changed = read_gguf(file)
        changed.metadata.update({f"{architecture}.{name}": value for name, value in settings.items()})
        with pytest.raises(NotComputed) as caught:
            plan(changed)
        assert words in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "settings",
    [
        {"attention.sliding_window": 0, "attention.scale": 0.25, "attention.causal": True},
        {
            "attention.sliding_window": 4096,
            "rope.scaling.finetuned": True,
            "tensor_data_layout": "Meta AI original pth",
        },
        {"expert_count": 0, "expert_used_count": 0, "logit_scale": 1.0, "rope.scaling.type": "none"},
        {"rope.scaling.factor": 0.0, "rope.scaling.attn_factor": 1.0, "rope.dimension_count": 16},
        {"attention.sliding_window": 2048, "rope.scaling.type": "none", "rope.scaling.factor": 4.0},
    ],
)
def test_what_changes_nothing_is_taken(tmp_path: Path, settings: Mapping[str, Any]) -> None:
    made = plan(read_gguf(make_gguf(tmp_path / "m.gguf", kind="Q4_1", settings=settings)))
    assert made.config["rope_parameters"] == {"rope_type": "default", "rope_theta": 1e5}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("llama.block_count", 1, "its tensor blk.1"),
        ("llama.block_count", 3, "it has no tensor blk.2"),
        ("llama.block_count", 1 << 30, "block_count is 1073741824"),
        ("llama.attention.head_count", 0, "attention.head_count is 0"),
        ("llama.attention.head_count", [4, 4], "attention.head_count is \\[4, 4\\]"),
        ("llama.embedding_length", 32, "of shape"),
        ("llama.rope.freq_base", "x", "rope.freq_base is 'x'"),
        ("llama.attention.layer_norm_rms_epsilon", [1e-5], "layer_norm_rms_epsilon"),
        ("split.count", 3, "it is one of 3 parts of a model"),
        ("general.type", "adapter", "it holds no model"),
    ],
)
def test_files_whose_numbers_do_not_fit_are_refused(tmp_path: Path, field: str, value: Any, words: str) -> None:
    file = read_gguf(make_gguf(tmp_path / "m.gguf", kind="Q4_1"))
    file.metadata[field] = value
    with pytest.raises(NotComputed, match=words):
        plan(file)


@pytest.mark.parametrize("kind", ["Q4_1", "IQ4_NL"])
@pytest.mark.parametrize(
    "tensor", ["blk.0.attn_sinks.weight", "blk.0.attn_q.bias", "rope_factors_long.weight", FACTORS]
)
def test_tensors_that_are_not_computed_with_are_refused_by_name(tmp_path: Path, kind: str, tensor: str) -> None:
    told = failure(make_gguf(tmp_path / "m.gguf", kind=kind, extra=tensor))
    assert told.message.startswith("m.gguf can't be converted: its ")
    assert tensor in told.message
    assert "engine llamacpp" in told.message
    assert not (tmp_path / "m").exists()


def test_a_part_of_a_model_is_not_sent_to_another_engine(tmp_path: Path) -> None:
    content = make_gguf(tmp_path / "m.gguf", kind="Q4_1").read_bytes()
    (tmp_path / "m.gguf").write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_op.weight"))
    assert "engine llamacpp" in failure(tmp_path / "m.gguf").message, "a tensor that is too much is told first"
    path = make_gguf(tmp_path / "n.gguf", kind="Q4_1", settings={"block_count": 3})
    told = failure(path).message
    assert told == (
        "n.gguf can't be converted: it has no tensor blk.2.attn_k.weight. Take a file of the whole model, or a"
        " repository of safetensors."
    )


def test_a_file_by_the_name_of_mistral_attends_to_all_that_comes_before(tmp_path: Path) -> None:
    for kind in ("F16", "IQ4_NL"):
        config = json.loads(
            (convert(make_gguf(tmp_path / f"{kind}.gguf", kind=kind, name="mistral")) / "config.json").read_text()
        )
        assert config["model_type"] == "llama"


def test_what_transformers_passes_over_is_set_for_gemma(tmp_path: Path) -> None:
    settings = {
        "attention.sliding_window": 32, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
        "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
    }  # fmt: skip
    path = make_gguf(tmp_path / "m.gguf", architecture="gemma2", settings=settings, head=32)
    model = load(convert(path))
    changes = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 32}
    rope = {"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5}}
    expected = reference(path, **changes, **rope)
    assert apart(logits(model), logits(expected)) < 1e-3
    for missing in (rope, *({name: value} for name, value in changes.items())):
        kept = {name: value for name, value in {**changes, **rope}.items() if name not in missing}
        assert apart(logits(reference(path, **kept)), logits(expected)) > 0.01, f"{missing} would go unnoticed"


def test_layers_of_gemma_3_with_a_window_are_not_scaled(tmp_path: Path) -> None:
    settings = {"attention.sliding_window": 32, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0}
    path = make_gguf(tmp_path / "m.gguf", architecture="gemma3", settings=settings, head=32)
    config = json.loads((convert(path) / "config.json").read_text())
    assert config["rope_parameters"]["full_attention"] == {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e5}
    assert config["rope_parameters"]["sliding_attention"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert (config["sliding_window"], config["query_pre_attn_scalar"]) == (32, 32)


@pytest.mark.parametrize(
    ("settings", "tensor", "words"),
    [
        ({"attention.scale": 0.5}, "", "attention.scale is 0.5"),
        ({"rope.dimension_count": 8}, "", "rope.dimension_count is 8"),
        ({"rope.scaling.type": "longrope"}, "", "rope.scaling.type is 'longrope'"),
        ({"residual_scale": 0.5}, "", "residual_scale is 0.5"),
        ({}, "blk.0.attn_q.bias", "blk.0.attn_q.bias"),
        ({}, "rope_factors_long.weight", "rope_factors_long.weight"),
    ],
)
def test_what_transformers_passes_over_is_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], tensor: str, words: str
) -> None:
    path = make_gguf(tmp_path / "m.gguf", architecture="gemma2", settings=settings, extra=tensor)
    assert words in failure(path).message


def test_weights_that_a_file_lacks_are_not_made_up(tmp_path: Path) -> None:
    path = make_gguf(tmp_path / "m.gguf", architecture="gemma2", settings={"something": 1})
    assert "something is 1" in failure(path).message
    content = make_gguf(tmp_path / "n.gguf", architecture="gemma2").read_bytes()
    (tmp_path / "n.gguf").write_bytes(content.replace(b"blk.1.ffn_up.weight", b"blk.1.ffn_op.weight"))
    assert "blk.1.ffn_op.weight" in failure(tmp_path / "n.gguf").message
