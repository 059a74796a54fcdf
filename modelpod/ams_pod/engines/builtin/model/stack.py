"""Find the decoder stack inside a Hugging Face model and say whether our own decoder can run it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ams_pod.engines.builtin.model.linear import is_quantized
from ams_pod.engines.builtin.model.native.kept_tiles import KeptTiles

_PATHS = ("model.language_model", "language_model.model", "language_model", "model")
_STATIC_ROPE = {"default", "linear", "yarn", "llama3"}  # tables that do not depend on the length in use


class UnsupportedStack(Exception):
    """Our decoder can't run this model; the message says which part differs."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A Llama- or Qwen-style decoder: `body` has embed_tokens, layers, norm and rotary_emb; `head` gives logits.

    `kept_tiles` has its weights as the compiled kernels take them, or gets them.
    """

    body: Any
    head: nn.Linear
    query_heads: int
    key_heads: int
    head_size: int
    epsilon: float
    kept_tiles: KeptTiles | None = None

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states; weights may be grouped."""
        dtype: torch.dtype = self.body.norm.weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self.body.norm.weight.device
        return device


def find_body(model: Any) -> Any:
    """The module with the decoder layers, wherever a family puts it."""
    for path in _PATHS:
        module = model
        for name in path.split("."):
            module = getattr(module, name, None)
        if module is not None and hasattr(module, "layers") and hasattr(module, "embed_tokens"):
            return module
    raise UnsupportedStack("no decoder layers were found in the model")


def find_stack(model: Any) -> Stack:
    """Check the shape of every layer; UnsupportedStack where it isn't the one that our decoder computes.

    What shapes can't show (another norm, a scaled embedding, another activation) shows in the numbers:
    see `verify`.
    """
    body = find_body(model)
    head = model.get_output_embeddings()
    _plain(head, "lm_head")
    config = body.config
    _check_config(config)
    for layer in body.layers:
        _check_layer(layer)
    attention = body.layers[0].self_attn
    head_size = int(attention.head_dim)
    return Stack(
        body=body,
        head=head,
        query_heads=attention.q_proj.out_features // head_size,
        key_heads=attention.k_proj.out_features // head_size,
        head_size=head_size,
        epsilon=float(config.rms_norm_eps),
    )


def waits_for_the_host(stack: Stack) -> bool:
    """Whether the host takes part in computing it: bitsandbytes looks for outliers of 8-bit layers in each call."""
    return any(type(module).__name__ == "Linear8bitLt" for module in stack.body.modules())


def _check_config(config: Any) -> None:
    rope = getattr(config, "rope_parameters", None) or {}
    if (kind := rope.get("rope_type", "default")) not in _STATIC_ROPE:
        raise UnsupportedStack(f"rope type {kind!r}")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedStack("partial rotary embedding")
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
        raise UnsupportedStack("layers with other than full attention")
    if getattr(config, "hidden_act", None) not in ("silu", "swish"):
        raise UnsupportedStack(f"activation {getattr(config, 'hidden_act', None)!r}")
    if not hasattr(config, "rms_norm_eps"):
        raise UnsupportedStack("no RMS norm")


def _check_layer(layer: Any) -> None:
    expected = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    if (found := {name for name, _ in layer.named_children()}) != expected:
        raise UnsupportedStack(f"a layer of {sorted(found)}")
    attention, mlp = layer.self_attn, layer.mlp
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        _plain(getattr(attention, name, None), name)
    for name in ("gate_proj", "up_proj", "down_proj"):
        _plain(getattr(mlp, name, None), name)
    norms = {"q_norm", "k_norm"} & {name for name, _ in attention.named_children()}
    if norms and (len(norms) == 1 or attention.q_norm.weight.numel() != attention.head_dim):
        raise UnsupportedStack("another norm of queries and keys")
    if abs(attention.scaling * attention.head_dim**0.5 - 1) > 1e-6:
        raise UnsupportedStack("another attention scale")
    if getattr(attention, "sliding_window", None):
        raise UnsupportedStack("a sliding window")


def _plain(module: Any, name: str) -> None:
    if type(module) is not nn.Linear and not is_quantized(module):
        raise UnsupportedStack(f"{name} is {type(module).__name__}, not a plain linear layer")
    if hasattr(module, "_hf_hook"):
        raise UnsupportedStack(f"the layers lie on several devices, {name} among them")
