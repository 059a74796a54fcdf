"""A tiny random model as one GGUF file."""

from pathlib import Path

from fakehub.tiny_tokenizer import CHATML, byte_pairs

HIDDEN = 64
LAYERS = 2


def make_gguf(path: Path, *, seed: int = 0, context: int = 2048) -> Path:
    """A tiny random Llama as one GGUF file, with a ChatML template; its declared eos is the end of a text."""
    import numpy as np
    from gguf import GGUFWriter, TokenType

    vocabulary, merges = byte_pairs()
    tokens = [*sorted(vocabulary, key=vocabulary.__getitem__), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    heads, keys, length = 4, 2, HIDDEN // 4
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(context)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(1e5)
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
        writer.add_tensor(name, (random.standard_normal((rows, columns)) * 0.2).astype(np.float16))

    matrix("token_embd.weight", len(tokens), HIDDEN)
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        writer.add_tensor(f"{block}.attn_norm.weight", np.ones(HIDDEN, np.float32))
        writer.add_tensor(f"{block}.ffn_norm.weight", np.ones(HIDDEN, np.float32))
        matrix(f"{block}.attn_q.weight", heads * length, HIDDEN)
        matrix(f"{block}.attn_k.weight", keys * length, HIDDEN)
        matrix(f"{block}.attn_v.weight", keys * length, HIDDEN)
        matrix(f"{block}.attn_output.weight", HIDDEN, heads * length)
        matrix(f"{block}.ffn_gate.weight", 2 * HIDDEN, HIDDEN)
        matrix(f"{block}.ffn_up.weight", 2 * HIDDEN, HIDDEN)
        matrix(f"{block}.ffn_down.weight", HIDDEN, 2 * HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
