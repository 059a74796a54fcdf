"""Tiny random LoRA adapters, as PEFT and llama.cpp write them, and files of safetensors to hold them against."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = 64
MODULES = {"self_attn.q_proj": (HIDDEN, HIDDEN), "mlp.down_proj": (HIDDEN, 2 * HIDDEN)}  # (outputs, inputs)


def safetensors(
    shapes: Mapping[str, tuple[int, ...]], *, dtype: str = "F32", seed: int = 0, scale: float = 0.2
) -> bytes:
    """A file of random tensors."""
    import numpy as np

    random = np.random.default_rng(seed)
    head: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name, shape in shapes.items():
        data = (random.standard_normal(shape) * scale).astype(np.float32).tobytes()
        head[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    return struct.pack("<Q", len(text)) + text + body


def base_shapes(layers: int = 2) -> dict[str, tuple[int, ...]]:
    """The matrices of a model that adapters of `peft` are for."""
    return {
        f"model.layers.{layer}.{module}.weight": shape for layer in range(layers) for module, shape in MODULES.items()
    }


def peft(
    *,
    rank: int = 4,
    layers: int = 2,
    modules: Mapping[str, tuple[int, int]] = MODULES,
    seed: int = 1,
    scale: float = 1.0,
    **config: Any,
) -> dict[str, bytes]:
    """The files of an adapter as PEFT writes it; `config` are fields of its adapter_config.json beside the usual."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for module, (outputs, inputs) in modules.items():
            name = f"base_model.model.model.layers.{layer}.{module}"
            shapes[f"{name}.lora_A.weight"] = (rank, inputs)
            shapes[f"{name}.lora_B.weight"] = (outputs, rank)
    told = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "acme/tiny", "r": rank,
        "lora_alpha": 2 * rank, "lora_dropout": 0.0, "bias": "none", "modules_to_save": None, "use_dora": False,
        "target_modules": sorted(each.rpartition(".")[2] for each in modules), "rank_pattern": {}, **config,
    }  # fmt: skip
    return {
        "adapter_config.json": json.dumps(told).encode(),
        "adapter_model.safetensors": safetensors(shapes, seed=seed, scale=scale),
    }


def gguf_lora(
    path: Path,
    *,
    rank: int = 4,
    layers: int = 2,
    inputs: int = HIDDEN,
    outputs: int = HIDDEN,
    architecture: str = "llama",
    kind: str = "adapter",
    scale: float = 1.0,
    seed: int = 1,
    tensor: str = "attn_q",
) -> Path:
    """An adapter as convert_lora_to_gguf.py of llama.cpp writes it."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    writer.add_type(kind)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    random = np.random.default_rng(seed)
    for layer in range(layers):
        name = f"blk.{layer}.{tensor}.weight"
        writer.add_tensor(f"{name}.lora_a", (random.standard_normal((rank, inputs)) * scale).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (random.standard_normal((outputs, rank)) * scale).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
