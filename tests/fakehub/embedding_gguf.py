"""Tiny checkpoints that make vectors or scores, as GGUF files of the same weights."""

import json
from pathlib import Path
from typing import Any

MEAN, FIRST, LAST, SCORE = 1, 2, 3, 4  # llama.cpp's numbers of poolings
_BERT = {
    "embeddings.word_embeddings.weight": "token_embd.weight",
    "embeddings.position_embeddings.weight": "position_embd.weight",
    "embeddings.token_type_embeddings.weight": "token_types.weight",
    "embeddings.LayerNorm": "token_embd_norm",
    "pooler.dense": "cls",
    "classifier": "cls.output",
}
_BERT_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_QWEN3 = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "lm_head.weight": ""}
_QWEN3_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def bert_gguf(folder: Path, path: Path, *, pooling: int = MEAN) -> Path:
    """Of a BERT's folder, with its word pieces; of a cross-encoder with `SCORE`."""
    from gguf import GGUFWriter, TokenType
    from tokenizers import Tokenizer

    config = json.loads((folder / "config.json").read_text())
    writer = GGUFWriter(path, "bert")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    _pooling(writer, pooling)
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = [token.startswith("[") and token.endswith("]") and len(token) > 1 for token in tokens]
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([
        token if own else token[2:] if token.startswith("##") and len(token) > 2 else f"\u2581{token}"
        for token, own in zip(tokens, special, strict=True)
    ])  # fmt: skip
    writer.add_token_types([TokenType.CONTROL if own else TokenType.NORMAL for own in special])
    for name, token in (("unk", "[UNK]"), ("sep", "[SEP]"), ("pad", "[PAD]"), ("bos", "[CLS]"), ("mask", "[MASK]")):
        getattr(writer, f"add_{name}_token_id")(vocabulary[token])
    if pooling == SCORE:
        writer.add_eos_token_id(vocabulary["[SEP]"])
        writer.add_add_eos_token(True)
        writer.add_add_sep_token(False)
        writer.add_classifier_output_labels(["LABEL_0"])
    _write(writer, folder, _BERT, "encoder.layer.", _BERT_LAYER, without=() if pooling == SCORE else ("pooler",))
    return path


def qwen3_gguf(folder: Path, path: Path, *, pooling: int | None = LAST) -> Path:
    """Of a Qwen3's folder; None for one that tells no pooling, as of a model that writes."""
    from gguf import GGUFWriter, TokenType

    config = json.loads((folder / "config.json").read_text())
    told = json.loads((folder / "tokenizer.json").read_text())
    vocabulary, added = dict(told["model"]["vocab"]), {each["content"]: each["id"] for each in told["added_tokens"]}
    vocabulary |= added
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    assert [vocabulary[token] for token in tokens] == [*range(len(tokens))]
    tokens += [f"[PAD{number}]" for number in range(len(tokens), config["vocab_size"])]
    writer = GGUFWriter(path, "qwen3")
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base((config.get("rope_parameters") or config)["rope_theta"])
    if pooling is not None:
        _pooling(writer, pooling)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in added else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in told["model"]["merges"]])
    end = added.get("<|endoftext|>", max(added.values()))
    writer.add_eos_token_id(end)
    writer.add_pad_token_id(end)
    writer.add_add_bos_token(False)
    _write(writer, folder, _QWEN3, "layers.", _QWEN3_LAYER)
    return path


def _pooling(writer: Any, pooling: int) -> None:
    from gguf import PoolingType

    writer.add_pooling_type(PoolingType(pooling))


def _write(
    writer: Any, folder: Path, names: dict[str, str], layers: str, layer: dict[str, str], without: tuple[str, ...] = ()
) -> None:
    import numpy as np
    import torch
    from safetensors.torch import load_file

    for full, values in load_file(folder / "model.safetensors").items():
        name = full.removeprefix("bert.").removeprefix("model.")
        if name.startswith(without or ("\0",)):
            continue
        if name.startswith(layers):
            number, _, rest = name.removeprefix(layers).partition(".")
            part, _, kind = rest.rpartition(".")
            target = f"blk.{number}.{layer[part]}.{kind}"
        else:
            part, _, kind = name.rpartition(".")
            target = names[name] if name in names else f"{names[part]}.{kind}"
        if target:
            writer.add_tensor(target, np.ascontiguousarray(values.to(torch.float32).numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
