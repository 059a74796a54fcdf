"""A GGUF file of the shape of Qwen3-8B with random blocks: for speeds, times and memory, never for what it says.

    python benchmarks/large_gguf.py SMALL.gguf LARGE.gguf [--layers 36] [--kind Q4_K_M]

Its tokenizer is that of SMALL, filled up to the vocabulary of 151,936. A model of random blocks repeats itself, so that
speculation pays as for no real text: set AMS_SPECULATION=off for what is compared.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
from numpy.typing import NDArray

HIDDEN, INNER, HEADS, KEY_HEADS, HEAD, VOCABULARY, CONTEXT = 4096, 12288, 32, 8, 128, 151936, 40960
Q4_0, Q4_K, Q6_K = (GGMLQuantizationType[name] for name in ("Q4_0", "Q4_K", "Q6_K"))
_USER_DEFINED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("small", type=Path)
    parser.add_argument("large", type=Path)
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--kind", choices=["Q4_0", "Q4_K_M"], default="Q4_0")
    given = parser.parse_args()
    write(GGUFReader(given.small), given.large, given.layers, given.kind)


def write(small: GGUFReader, path: Path, layers: int, kind: str) -> None:
    writer = GGUFWriter(path, "qwen3", use_temp_file=True)
    writer.add_name("random-8b")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    _tokenizer(small, writer)
    random = np.random.default_rng(1)

    def matrix(name: str, rows: int, columns: int, more: bool = False) -> None:
        """`more`: in 6 bits, where llama.cpp's Q4_K_M is so precise."""
        chosen = Q4_0 if kind == "Q4_0" else Q6_K if more else Q4_K
        writer.add_tensor(f"{name}.weight", _blocks(random, chosen, rows, columns), raw_dtype=chosen)

    def ones(name: str, size: int) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(size, np.float32))

    matrix("token_embd", VOCABULARY, HIDDEN)
    ones("output_norm", HIDDEN)
    matrix("output", VOCABULARY, HIDDEN, more=True)
    for layer in range(layers):
        at = f"blk.{layer}"
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        for norm, size in (("attn_norm", HIDDEN), ("ffn_norm", HIDDEN), ("attn_q_norm", HEAD), ("attn_k_norm", HEAD)):
            ones(f"{at}.{norm}", size)
        matrix(f"{at}.attn_q", HEADS * HEAD, HIDDEN)
        matrix(f"{at}.attn_k", KEY_HEADS * HEAD, HIDDEN)
        matrix(f"{at}.attn_v", KEY_HEADS * HEAD, HIDDEN, more)
        matrix(f"{at}.attn_output", HIDDEN, HEADS * HEAD)
        matrix(f"{at}.ffn_gate", INNER, HIDDEN)
        matrix(f"{at}.ffn_up", INNER, HIDDEN)
        matrix(f"{at}.ffn_down", HIDDEN, INNER, more)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tokenizer(small: GGUFReader, writer: GGUFWriter) -> None:
    def value(name: str) -> Any:
        return small.fields[f"tokenizer.{name}"].contents()

    tokens, kinds = value("ggml.tokens"), value("ggml.token_type")
    more = VOCABULARY - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*tokens, *(f"<unused{number}>" for number in range(more))])
    writer.add_token_types([*kinds, *[_USER_DEFINED] * more])
    writer.add_token_merges(value("ggml.merges"))
    writer.add_bos_token_id(value("ggml.bos_token_id"))
    writer.add_eos_token_id(value("ggml.eos_token_id"))
    writer.add_chat_template(value("chat_template"))


def _blocks(random: np.random.Generator, kind: GGMLQuantizationType, rows: int, columns: int) -> NDArray[np.uint8]:
    """Bytes [rows, blocks · bytes], of scales with which a row of ones makes values of about 1."""
    values, size = GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (rows, columns // values, size), dtype=np.uint8)

    def put(start: int, spread: float) -> None:
        blocks[:, :, start : start + 2] = np.array([1 / (spread * np.sqrt(columns))], np.float16).view(np.uint8)

    if kind == Q4_0:  # how far codes of one scale spread
        put(0, 4.6)
    elif kind == Q4_K:  # and with scales of 6 bits beside them; offsets move their mean to 0
        put(0, 255)
        put(2, 255 / 7.5)
    else:
        put(208, 1370)
    return blocks.reshape(rows, -1)


if __name__ == "__main__":
    main()
