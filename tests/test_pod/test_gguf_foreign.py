"""GGUF files of architectures that transformers reads: what they say as files of the field do is taken, and counts."""

from pathlib import Path
from typing import Any

import pytest
from ams_pod.engines.builtin.model.gguf_file import GgufFile, GgufTensor, read_gguf
from ams_pod.engines.builtin.model.gguf_foreign import check_tensors, read_config
from ams_pod.engines.builtin.model.gguf_settings import NotComputed
from gguf import GGUFWriter

COMMON = {
    "context_length": 4096, "embedding_length": 256, "block_count": 2, "feed_forward_length": 512,
    "attention.head_count": 8, "attention.head_count_kv": 2,
}  # fmt: skip
RMS, NORM = {"attention.layer_norm_rms_epsilon": 1e-6}, {"attention.layer_norm_epsilon": 0.5}
EXPERTS = {"expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 96}
QKV, MLP = ("attn_q", "attn_k", "attn_v", "attn_output"), ("ffn_gate", "ffn_up", "ffn_down")
NORMS, EXPERT = ("attn_norm", "ffn_norm"), ("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
OUTER = ("token_embd.weight", "output_norm.weight", "output.weight")


def described(folder: Path, architecture: str, settings: dict[str, Any], tensors: tuple[str, ...] = ()) -> GgufFile:
    """A file with these settings; the tensors' values aren't there."""
    path = folder / "m.gguf"
    writer = GGUFWriter(path, architecture)
    writer.add_name("tiny")
    for name, value in settings.items():
        key = f"{architecture}.{name}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_float32(key, value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b"])
    writer.add_pad_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = read_gguf(path)
    return GgufFile(path, file.metadata, tuple(GgufTensor(name, "F16", (1,), 0, 0) for name in tensors))


def layers(*names: str, biases: tuple[str, ...] = ()) -> tuple[str, ...]:
    weights = [f"blk.{layer}.{name}.weight" for layer in range(2) for name in names]
    return (*weights, *(f"blk.{layer}.{name}.bias" for layer in range(2) for name in biases))


FILES: list[tuple[str, dict[str, Any], tuple[str, ...], dict[str, Any]]] = [
    (
        "qwen3moe",
        {**COMMON, **RMS, **EXPERTS, "rope.freq_base": 1e6, "attention.key_length": 128, "attention.value_length": 128},
        (*OUTER, *layers(*NORMS, *QKV, *EXPERT, "attn_q_norm", "attn_k_norm")),
        {"head_dim": 128, "moe_intermediate_size": 96, "num_experts_per_tok": 2, "norm_topk_prob": True},
    ),
    (
        "qwen2moe",
        {**COMMON, **RMS, **EXPERTS, "rope.freq_base": 1e6, "expert_shared_feed_forward_length": 192},
        (
            *OUTER,
            *layers(*NORMS, *QKV, *EXPERT, "ffn_gate_inp_shexp", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp",
                    biases=("attn_q", "attn_k", "attn_v")),
        ),
        {"moe_intermediate_size": 96, "shared_expert_intermediate_size": 192},
    ),
    (
        "phi3",
        {
            **COMMON, **RMS, "rope.dimension_count": 32, "rope.freq_base": 1e4,
            "rope.scaling.original_context_length": 4096, "attention.sliding_window": 2047,
        },
        (*OUTER, *layers(*NORMS, "attn_qkv", "attn_output", "ffn_up", "ffn_down")),
        {"sliding_window": 2047},
    ),
    (
        "starcoder2",
        {**COMMON, **NORM, "rope.freq_base": 5e5, "rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
        (
            *OUTER, "output_norm.bias",
            *layers(*NORMS, *QKV, "ffn_up", "ffn_down", biases=(*NORMS, *QKV, "ffn_up", "ffn_down")),
        ),
        {"norm_epsilon": 0.5, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}},
    ),
    (
        "stablelm", {**COMMON, **NORM, "rope.dimension_count": 8, "use_parallel_residual": False},
        (*OUTER, "output_norm.bias", *layers(*NORMS, *QKV, *MLP, biases=NORMS)),
        {"layer_norm_eps": 0.5, "use_parallel_residual": False},
    ),
    (
        "falcon", {**COMMON, **NORM, "attention.head_count_kv": 1, "tensor_data_layout": "jploski"},
        (*OUTER, "output_norm.bias", *layers("attn_norm", "attn_qkv", "attn_output", "ffn_up", "ffn_down",
                                             biases=("attn_norm",))),
        {"layer_norm_epsilon": 0.5, "tie_word_embeddings": False},
    ),
    (
        "gpt2", {**{name: value for name, value in COMMON.items() if "kv" not in name}, **NORM},
        (
            *OUTER, "output_norm.bias", "position_embd.weight",
            *layers(*NORMS, "attn_qkv", "attn_output", "ffn_up", "ffn_down",
                    biases=(*NORMS, "attn_qkv", "attn_output", "ffn_up", "ffn_down")),
        ),
        {"layer_norm_epsilon": 0.5},
    ),
    (
        "nemotron", {**COMMON, **NORM, "rope.dimension_count": 16, "rope.freq_base": 1e4},
        (*OUTER, "output_norm.bias", *layers(*NORMS, *QKV, "ffn_up", "ffn_down", biases=NORMS)),
        {"norm_eps": 0.5},
    ),
    (
        "lfm2",
        {**COMMON, **RMS, "attention.head_count_kv": [0, 2], "rope.freq_base": 1e6, "shortconv.l_cache": 3,
         "vocab_size": 2},
        (), {"conv_L_cache": 3},
    ),
    (
        "qwen35",
        {
            **COMMON, **RMS, "attention.key_length": 64, "attention.value_length": 64, "rope.freq_base": 1e7,
            "rope.dimension_count": 16, "rope.dimension_sections": [4, 2, 2, 0], "full_attention_interval": 4,
            "ssm.conv_kernel": 4, "ssm.state_size": 32, "ssm.group_count": 4, "ssm.time_step_rank": 8,
            "ssm.inner_size": 256,
        },
        (), {"head_dim": 64},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "settings", "tensors", "wanted"), FILES, ids=lambda each: str(each)[:12])
def test_what_files_of_the_field_say_counts(
    tmp_path: Path, architecture: str, settings: dict[str, Any], tensors: tuple[str, ...], wanted: dict[str, Any]
) -> None:
    file = described(tmp_path, architecture, settings, tensors)
    config = read_config(file)
    assert {name: getattr(config, name) for name in wanted} == wanted
    if tensors:
        check_tensors(file, config)
        more = GgufTensor("blk.0.attn_sinks.weight", "F32", (1,), 0, 0)
        with pytest.raises(NotComputed, match="attn_sinks"):
            check_tensors(GgufFile(file.path, file.metadata, (*file.tensors, more)), config)


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("phi3", {"rope.scaling.type": "longrope"}, "rope.scaling.type is 'longrope'"),
        ("stablelm", {"rope.dimension_count": 32}, "rope.dimension_count is 32"),
        ("falcon", {"attention.max_alibi_bias": 8.0}, "attention.max_alibi_bias is 8"),
        ("qwen3moe", {"expert_weights_scale": 2.5}, "expert_weights_scale is 2.5"),
        ("qwen3moe", {"attention.value_length": 64}, "attention.value_length is 64"),
        ("qwen35", {"attention.scale": 0.5}, "attention.scale is 0.5"),
        ("lfm2", {"something": 5}, "something is 5"),
    ],
)
def test_what_does_not_count_is_refused(
    tmp_path: Path, architecture: str, settings: dict[str, Any], words: str
) -> None:
    [given] = [each[1] for each in FILES if each[0] == architecture]
    with pytest.raises(NotComputed) as caught:
        read_config(described(tmp_path, architecture, {**given, **settings}))
    assert words in str(caught.value)
