"""Bounds of what a config.json may claim: a model of ten million layers is built for hours, or never ends. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any

# Far beyond any model there is; by the names that configurations use for them.
_LAYERS, _WIDTH, _HEADS, _WORDS, _TOKENS = 4096, 1 << 20, 1 << 16, 1 << 24, 1 << 32
_MOST = {
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "depth"), _LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_nextn_predict_layers"), _LAYERS),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "head_dim", "projection_dim"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "n_inner", "ffn_dim"), 16 * _WIDTH),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 16 * _WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), _HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), _HEADS),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), _HEADS),
    **dict.fromkeys(("vocab_size", "text_vocab_size"), _WORDS),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_source_positions"), _TOKENS),
    **dict.fromkeys(("image_size", "patch_size"), 1 << 16),
}


def absurd_size(config: Mapping[str, Any]) -> str | None:
    """The sentence for a size that no model has, in the configuration or in a part of it; None if all may be true."""
    for name, value in _fields(config):
        most = _MOST.get(name.rpartition(".")[2])
        if most is None or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not 0 <= value <= most:
            shown = f"{value:,}" if abs(value) < 10**18 else "a number of more than 18 digits"
            return f"config.json: {name} is {shown}; models have from 0 to {most:,}."
    return None


def _fields(config: Mapping[str, Any], path: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping) and depth < 8:
            yield from _fields(value, f"{path}{name}.", depth + 1)
        else:
            yield f"{path}{name}", value
