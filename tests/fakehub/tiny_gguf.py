"""A tiny random model as one GGUF file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from fakehub.tiny_tokenizer import CHATML, byte_pairs

HIDDEN = 64
LAYERS = 2


def make_gguf(
    path: Path,
    *,
    seed: int = 0,
    context: int = 2048,
    kind: str = "F16",
    architecture: str = "llama",
    hidden: int = HIDDEN,
    tied: bool = True,
    extra: str = "",
    name: str = "tiny",
    head: int | None = None,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, Any] | None = None,
) -> Path:
    """A tiny random model as one GGUF file, with a ChatML template; its declared eos is the end of a text.

    `kind` is that of its matrices, of random blocks for K-quants and IQ4_NL. `extra` is one more tensor's name,
    `tensors` are others with their values; a head has `head` values; `settings` are more of the architecture's.
    """
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType

    vocabulary, merges = byte_pairs()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    gemma = architecture in ("gemma2", "gemma3")
    heads, keys = 4, 2
    length = head or (128 if architecture == "qwen3" else hidden // 4)
    writer = GGUFWriter(path, architecture)
    writer.add_name(name)
    writer.add_context_length(context)
    writer.add_embedding_length(hidden)
    writer.add_block_count((settings or {}).get("block_count", LAYERS))
    writer.add_feed_forward_length(2 * hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "qwen3" or gemma or head:
        writer.add_key_length(length)
        writer.add_value_length(length)
    for key, value in (settings or {}).items():
        if key not in ("rope.freq_base", "block_count"):
            _ADD[type(value)](writer, f"{architecture}.{key}", value)
    writer.add_rope_freq_base((settings or {}).get("rope.freq_base", 1e5))
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.NORMAL] * (len(tokens) - 3) + [TokenType.CONTROL] * 3)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 3)
    writer.add_unk_token_id(len(tokens) - 3)
    writer.add_pad_token_id(len(tokens) - 3)
    writer.add_chat_template(CHATML)
    random = np.random.default_rng(seed)

    def matrix(name: str, rows: int, columns: int) -> None:
        if kind == "F16":
            writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.2).astype(np.float16))
        else:
            writer.add_tensor(name, quantized_rows(kind, rows, columns, random), raw_dtype=GGMLQuantizationType[kind])

    def vector(name: str, size: int, around: float) -> None:
        writer.add_tensor(name, (around + 0.1 * random.standard_normal(size)).astype(np.float32))

    matrix("token_embd.weight", len(tokens), hidden)
    if not tied:
        matrix("output.weight", len(tokens), hidden)
    if extra:
        vector(extra, 8, 1)
    for tensor, values in (tensors or {}).items():
        writer.add_tensor(tensor, values)
    vector("output_norm.weight", hidden, 1)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        vector(f"{block}.attn_norm.weight", hidden, 1)
        vector(f"{block}.ffn_norm.weight", hidden, 1)
        if gemma:
            vector(f"{block}.post_attention_norm.weight", hidden, 1)
            vector(f"{block}.post_ffw_norm.weight", hidden, 1)
        if architecture in ("qwen3", "gemma3"):
            vector(f"{block}.attn_q_norm.weight", length, 1)
            vector(f"{block}.attn_k_norm.weight", length, 1)
        if architecture == "qwen2":
            for name, rows in (("q", heads * length), ("k", keys * length), ("v", keys * length)):
                vector(f"{block}.attn_{name}.bias", rows, 0)
        matrix(f"{block}.attn_q.weight", heads * length, hidden)
        matrix(f"{block}.attn_k.weight", keys * length, hidden)
        matrix(f"{block}.attn_v.weight", keys * length, hidden)
        matrix(f"{block}.attn_output.weight", hidden, heads * length)
        matrix(f"{block}.ffn_gate.weight", 2 * hidden, hidden)
        matrix(f"{block}.ffn_up.weight", 2 * hidden, hidden)
        matrix(f"{block}.ffn_down.weight", hidden, 2 * hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_ADD: dict[type, Any] = {
    bool: lambda writer, key, value: writer.add_bool(key, value),
    int: lambda writer, key, value: writer.add_uint32(key, value),
    float: lambda writer, key, value: writer.add_float32(key, value),
    str: lambda writer, key, value: writer.add_string(key, value),
}


def convert(path: Path, folder: Path | None = None) -> Path:
    """The folder that the file becomes; in this process, where nothing of the converter's may stay."""
    from ams_pod.engines.builtin.model.gguf import convert_gguf
    from transformers import modeling_gguf_pytorch_utils as reading

    folder = folder or path.with_suffix("")
    with mock.patch.object(reading, "load_gguf_checkpoint", reading.load_gguf_checkpoint):  # the converter replaces it
        convert_gguf(path, folder)
    return folder


def quantized_rows(kind: str, rows: int, columns: int, random: Any) -> Any:
    """Blocks [rows, bytes] of random weights in a quantized kind, each some 0.2 large."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import quantize

    if kind == "IQ4_NL":
        blocks = random.integers(0, 256, (rows, columns // 32, 18), dtype=np.uint8)
        blocks[..., :2] = np.full((rows, columns // 32, 1), 0.003, np.float16).view(np.uint8)
        return blocks.reshape(rows, -1)
    if not kind.endswith("_K"):
        values = (random.standard_normal((rows, columns)) * 0.2).astype(np.float32)
        return quantize(values, GGMLQuantizationType[kind])
    size, width = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    blocks = random.integers(0, 256, (rows, columns // size, width), dtype=np.uint8)

    def scale(start: int, value: float) -> None:
        halves = np.full((rows, columns // size, 1), value, np.float16) * random.uniform(0.5, 1, (rows, 1, 1))
        blocks[..., start : start + 2] = halves.astype(np.float16).view(np.uint8)

    if kind == "Q6_K":
        scale(208, 0.0002)
    else:
        scale(0, 0.0008 if kind == "Q4_K" else 0.0004)
        scale(2, 0.006)
    return blocks.reshape(rows, -1)
