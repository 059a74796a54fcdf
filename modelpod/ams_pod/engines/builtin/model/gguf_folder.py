"""A GGUF file's weights as a folder's: codes and scales of quantized tensors as they are, the others in bfloat16.

`plan` says what becomes of each tensor, for the architectures whose settings and tensors are known here;
`write_weights` does it, a piece of rows at a time, so that memory doesn't depend on the model.
"""

import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ams_common.gguf_embedding import gguf_embedding
from ams_common.grouped_weights import METHOD, VERSION
from ams_common.printable import printable
from numpy.typing import NDArray

from ams_pod.engines.builtin.model.gguf_blocks import group_rows, layout_of_kind
from ams_pod.engines.builtin.model.gguf_file import GgufFile, GgufTensor, read_floats
from ams_pod.engines.builtin.model.gguf_rope import FACTORS, rope_parameters
from ams_pod.engines.builtin.model.gguf_rope import READ as READ_OF_ROPE
from ams_pod.engines.builtin.model.gguf_settings import (
    NotComputed,
    NotWhole,
    check_settings,
    number,
    refusal,
    settings_of,
    told,
)
from ams_pod.engines.builtin.model.group_layouts import TILE, Layout

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_BIASED = ("attn_q", "attn_k", "attn_v")  # of qwen2
_PLAIN = ("F32", "F16", "BF16")
_MOST_LAYERS = 10_000
_PIECE = 1 << 22  # values that are worked on at once
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER = {
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_SPECIAL = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}
# Settings that config.json is made of.
_READ = READ_OF_ROPE | {
    "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon",
    "attention.value_length", "block_count", "context_length", "embedding_length", "feed_forward_length",
    "rope.dimension_count", "vocab_size",
}  # fmt: skip
# Names of llama.cpp's enumeration of file types; of the others the kind of most tensors is told.
_FILE_TYPES = {14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M"}


class Unplanned(Exception):
    """The file can't be kept as it is; the message says what of it. `config` is config.json where that is known."""

    def __init__(self, message: str, config: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.config = config


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor of the folder, from one of the file. `heads`: its rows are those of so many heads, interleaved."""

    name: str
    tensor: GgufTensor
    heads: int = 0

    @property
    def layout(self) -> Layout | None:
        return layout_of_kind(self.tensor.kind)

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout is None:
            return self.tensor.shape
        rows, columns = self.tensor.shape
        return self.layout.shape(rows, columns)

    @property
    def size(self) -> int:
        """Bytes in the folder."""
        return math.prod(self.shape) * (2 if self.layout is None else 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """`config` is config.json, without what transformers fills in."""

    config: dict[str, Any]
    targets: tuple[Target, ...]

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(target.size for target in self.targets)


def plan(file: GgufFile) -> Plan:
    """NotComputed for what isn't computed here; Unplanned for an architecture or a tensor's kind that isn't known."""
    if gguf_embedding(file.metadata) is not None:
        raise NotComputed("it holds a model that makes embeddings or scores of texts, of which none is converted")
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in _CLASSES:
        raise Unplanned(f"architecture {told(architecture)}")
    tensors = {tensor.name: tensor for tensor in file.tensors}
    factors = tensors.pop(FACTORS, None) if architecture == "llama" else None
    config = _config(file, architecture, "output.weight" not in tensors, factors)
    expected = _expected(config, architecture)
    if surplus := tensors.keys() - expected.keys():
        raise NotComputed(f"its tensor {printable(min(surplus), 80)} isn't computed with here")
    if missing := expected.keys() - tensors.keys():
        raise NotWhole(f"it has no tensor {min(missing)}")
    targets, unknown = [], ""
    for name, (target, shape) in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise NotWhole(f"its tensor {name} is of shape {list(tensor.shape)}, not {list(shape)}")
        if tensor.kind not in _PLAIN and (len(shape) != 2 or layout_of_kind(tensor.kind) is None):
            unknown = unknown or f"{name} of kind {tensor.kind}"
        heads = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}.get(name.split(".")[-2])
        targets.append(Target(target, tensor, config[heads] if heads and architecture == "llama" else 0))
    if unknown:
        raise Unplanned(unknown, config)
    # Grouped ones first, and of these such whose sizes are multiples of 64 bytes, so that each of them begins at one.
    targets.sort(key=lambda target: (target.layout is None, target.size % 64 != 0))
    if any(target.layout for target in targets):
        config["quantization_config"] = _quantization(file, targets)
    return Plan(config, tuple(targets))


def write_weights(file: GgufFile, made: Plan, folder: Path) -> None:
    """model.safetensors. OSError as the file system says."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for target in made.targets:
        kind = "BF16" if target.layout is None else "U8"
        header[target.name] = {"dtype": kind, "shape": target.shape, "data_offsets": [at, at + target.size]}
        at += target.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with file.path.open("rb") as source, (folder / "model.safetensors").open("wb") as sink:
        sink.write(len(text).to_bytes(8, "little") + text)
        with mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            for target in made.targets:
                _write(mapped, target, sink)


def _config(file: GgufFile, architecture: str, tied: bool, factors: GgufTensor | None) -> dict[str, Any]:
    settings = settings_of(file.metadata, architecture)

    def count(name: str, default: int | None = None) -> int:
        value = settings.get(name, default)
        if value is None:
            raise NotWhole(f"it has no setting {name}")
        if type(value) is not int or not 0 < value < 1 << 40:
            raise refusal(name, value)
        return value

    hidden, heads, context = count("embedding_length"), count("attention.head_count"), count("context_length")
    head = count("attention.key_length", max(1, hidden // heads))
    for name in ("attention.value_length", "rope.dimension_count"):
        if count(name, head) != head:
            raise NotComputed(f"its setting {name} is {settings[name]}, and keys have {head} values")
    if head % 2:
        raise refusal("attention.key_length", head)
    if architecture == "qwen2" and head * heads != hidden:
        raise NotComputed(f"its {heads} heads of {head} values are none of {hidden}, which qwen2 needs")
    check_settings(settings, _READ, head=head, context=context)
    epsilon = number(settings, "attention.layer_norm_rms_epsilon", 1e-6)
    tokens, layers = file.metadata.get("tokenizer.ggml.tokens"), count("block_count")
    if layers > _MOST_LAYERS:
        raise refusal("block_count", layers)
    found: dict[str, Any] = {
        "model_type": architecture,
        "architectures": [_CLASSES[architecture]],
        "dtype": "bfloat16",
        "vocab_size": count("vocab_size", len(tokens) if isinstance(tokens, list) else None),
        "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length"),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": count("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": context,
        "rms_norm_eps": epsilon,
        "rope_parameters": rope_parameters(
            settings, head=head, context=context, factors=None if factors is None else _factors(file, factors)
        ),
        "tie_word_embeddings": tied,
    }
    for name, key in _SPECIAL.items():
        if (token := file.number(key)) is not None:
            found[name] = token
    return found


def _factors(file: GgufFile, tensor: GgufTensor) -> NDArray[np.float64]:
    if tensor.kind != "F32" or len(tensor.shape) != 1:
        raise NotComputed(f"its tensor {tensor.name} is of kind {tensor.kind} and shape {list(tensor.shape)}")
    return read_floats(file, tensor)


def _expected(config: dict[str, Any], architecture: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The folder's name and the shape of each tensor that the file must have, by its name there."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    outside = {"token_embd.weight": (config["vocab_size"], hidden), "output_norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        outside["output.weight"] = (config["vocab_size"], hidden)
    shapes: dict[str, tuple[int, ...]] = {
        "attn_norm": (hidden,), "ffn_norm": (hidden,), "attn_q": (queries, hidden), "attn_k": (keys, hidden),
        "attn_v": (keys, hidden), "attn_output": (hidden, queries), "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden), "ffn_down": (hidden, inner),
    }  # fmt: skip
    if architecture == "qwen3":
        shapes |= {"attn_q_norm": (head,), "attn_k_norm": (head,)}
    found = {name: (_OUTSIDE[name], shape) for name, shape in outside.items()}
    for layer in range(config["num_hidden_layers"]):
        for name, shape in shapes.items():
            target = f"model.layers.{layer}.{_LAYER[name]}"
            found[f"blk.{layer}.{name}.weight"] = f"{target}.weight", shape
            if architecture == "qwen2" and name in _BIASED:
                found[f"blk.{layer}.{name}.bias"] = f"{target}.bias", shape[:1]
    return found


def _quantization(file: GgufFile, targets: list[Target]) -> dict[str, Any]:
    """What config.json says of the weights, for `ams_common.grouped_weights` and `grouping`."""
    by_kind: dict[str, int] = {}
    bits: dict[str, int] = {}
    for target in targets:
        if target.layout is not None:
            bits[target.tensor.kind] = target.layout.bits
            by_kind[target.tensor.kind] = by_kind.get(target.tensor.kind, 0) + target.tensor.values
    most = max(by_kind, key=by_kind.__getitem__)
    return {
        "quant_method": METHOD,
        "version": VERSION,
        "bits": bits[most],
        "group_size": 32,
        "parameters": sum(target.tensor.values for target in targets),
        "file_type": _FILE_TYPES.get(file.number("general.file_type") or 0, most),
    }


def _write(mapped: mmap.mmap, target: Target, sink: BinaryIO) -> None:
    tensor = target.tensor
    data = np.frombuffer(mapped, np.uint8, tensor.size, tensor.start)
    if target.layout is None and not target.heads:
        for first in range(0, tensor.size, _PIECE):
            sink.write(_bfloat16(tensor.kind, data[first : first + _PIECE]).tobytes())
        return
    rows = data.reshape(tensor.shape[0], -1)
    for piece in _pieces(tensor.shape[0], tensor.shape[1]):
        chosen = rows[_places(target, piece)] if target.heads else rows[piece]
        made = _bfloat16(tensor.kind, chosen) if target.layout is None else group_rows(tensor.kind, chosen)
        sink.write(made.tobytes())


def _pieces(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _PIECE // columns // TILE) * TILE
    return (slice(first, min(rows, first + step)) for first in range(0, rows, step))


def _places(target: Target, piece: slice) -> NDArray[np.int64]:
    """Which rows of the file are these of the folder: llama.cpp lays the halves of a head's rows in turns."""
    half = target.tensor.shape[0] // target.heads // 2
    rows = np.arange(piece.start, piece.stop)
    head, place = np.divmod(rows, 2 * half)
    return head * 2 * half + place % half * 2 + place // half


def _bfloat16(kind: str, data: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Rounded to even, as torch does."""
    data = np.ascontiguousarray(data)
    if kind == "BF16":
        return data.view(np.uint16)
    values = data.view(np.float16).astype(np.float32) if kind == "F16" else data.view(np.float32)
    words = values.view(np.uint32)
    rounded = ((words >> 16 & 1) + 0x7FFF + words >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
