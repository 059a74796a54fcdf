"""The examples' models as the hub lists them: sizes and config.json of the real ones, without the weights."""

import json
from typing import Any

from fakehub.repository import Bytes, File, Repository

_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128000,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
_OMNI_TEXT = {**_VL, "architectures": None, "max_position_embeddings": 32768, "tie_word_embeddings": False}

# Repository: config.json, bytes of the weights.
REAL: dict[str, tuple[dict[str, Any], int]] = {
    "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B": (
        {
            "architectures": ["Qwen3ForCausalLM"],
            "hidden_size": 4096,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "vocab_size": 151936,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        16_381_516_776,
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": (_VL, 7_509_337_584),
    "Qwen/Qwen3-VL-2B-Instruct": (
        {
            "architectures": ["Qwen3VLForConditionalGeneration"],
            "text_config": {
                "hidden_size": 2048,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 8,
                "head_dim": 128,
                "max_position_embeddings": 262144,
                "vocab_size": 151936,
                "dtype": "bfloat16",
            },
            "tie_word_embeddings": True,
        },
        4_255_140_312,
    ),
    "Qwen/Qwen2-Audio-7B-Instruct": (
        {
            "architectures": ["Qwen2AudioForConditionalGeneration"],
            "text_config": {
                "hidden_size": 4096,
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 32,
                "max_position_embeddings": 8192,
                "vocab_size": 156032,
                "tie_word_embeddings": False,
                "torch_dtype": "bfloat16",
            },
        },
        16_794_289_704,
    ),
    "Qwen/Qwen2.5-Omni-3B": (
        {
            "architectures": ["Qwen2_5OmniModel"],
            "thinker_config": {"text_config": _OMNI_TEXT},
            "torch_dtype": "bfloat16",
        },
        11_074_000_000,
    ),
    "Salesforce/blip-vqa-base": (
        {
            "architectures": ["BlipForQuestionAnswering"],
            "text_config": {
                "hidden_size": 768,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "vocab_size": 30524,
                "max_position_embeddings": 512,
            },
            "torch_dtype": "float32",
        },
        1_538_800_584,
    ),
}


def repositories() -> list[Repository]:
    found = []
    for name, (config, size) in REAL.items():
        repository = Repository(name)
        repository.commit_files(
            {
                "config.json": File("config.json", Bytes(json.dumps(config).encode())),
                "tokenizer.json": File("tokenizer.json", Bytes(b"{}")),
                "model.safetensors": File("model.safetensors", Bytes(b""), claimed=size),
            }
        )
        found.append(repository)
    return found
