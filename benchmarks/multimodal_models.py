"""Random checkpoints of the media families in a size that means something: about 0.4 billion parameters.

    folder = make("image", Path("/tmp/models"))

Real architectures and processors; of the vocabulary only what the tests' tokenizer knows. Random weights cost as much
as trained ones. The language model has the shape of Qwen2.5-0.5B, the vision tower 8 layers of width 768, the audio
tower 8 layers of width 768.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
from fakehub import checkpoints

_LANGUAGE = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "layer_types": ["full_attention"] * 24,
    "max_window_layers": 24,
}
_SECTIONS = [8, 12, 12]  # of the 32 pairs that a head of 64 rotates: time, height, width
_VISION = {
    "depth": 8,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_heads": 12,
    "fullatt_block_indexes": [3, 7],
    "out_hidden_size": 896,
}
_AUDIO = {"d_model": 768, "encoder_layers": 8, "encoder_attention_heads": 12, "encoder_ffn_dim": 3072}
_PIXELS = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}
KINDS = {"image": "qwen2_5_vl", "audio": "qwen2_audio", "omni": "qwen2_5_omni"}


def make(kind: str, base: Path) -> Path:
    """The checkpoint for `kind`, made in `base` unless it is there."""
    folder = base / kind
    if not (folder / "config.json").exists():
        checkpoints.make(KINDS[kind], folder)
        _enlarge(folder, kind)
    return folder


def _enlarge(folder: Path, kind: str) -> None:
    import torch
    from transformers import AutoConfig, AutoProcessor

    config: Any = AutoConfig.from_pretrained(folder)
    owner = config.thinker_config if kind == "omni" else config
    _set(owner.text_config, _LANGUAGE)
    if kind != "audio":
        owner.text_config.rope_parameters["mrope_section"] = _SECTIONS
        _set(owner.vision_config, _VISION)
    if kind != "image":
        _set(owner.audio_config, _AUDIO | ({"output_dim": 896} if kind == "omni" else {}))
    if kind == "omni":
        config.talker_config.embedding_size = 896
    torch.manual_seed(0)
    model = _class(kind)(config).to(torch.bfloat16)
    tokenizer = AutoProcessor.from_pretrained(folder).tokenizer
    head = (model.thinker if kind == "omni" else model).get_output_embeddings().weight
    with torch.no_grad():
        head[_unsent(tokenizer)] = 0  # never the likeliest
    model.save_pretrained(folder)
    if kind != "audio":
        processor = AutoProcessor.from_pretrained(folder)
        processor.image_processor.size = _PIXELS
        processor.video_processor.size = _PIXELS
        processor.save_pretrained(folder)


def _unsent(tokenizer: Any) -> list[int]:
    """Tokens that a stream doesn't send at once: parts of characters, and special ones."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return [index for index in range(len(tokenizer)) if index in special or "\ufffd" in tokenizer.decode([index])]


def _set(config: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(config, name, value)


def _class(kind: str) -> Any:
    import transformers

    if kind == "omni":
        from transformers import Qwen2_5OmniForConditionalGeneration

        def made(config: Any) -> Any:
            config.enable_audio_output = False
            model = Qwen2_5OmniForConditionalGeneration(config)
            model.config.enable_audio_output = True
            return model

        return made
    return {
        "image": transformers.Qwen2_5_VLForConditionalGeneration,
        "audio": transformers.Qwen2AudioForConditionalGeneration,
    }[kind]


if __name__ == "__main__":
    for each in KINDS:
        made = make(each, Path(sys.argv[1]))
        size = sum(file.stat().st_size for file in made.glob("*.safetensors"))
        kind = json.loads((made / "config.json").read_text())["architectures"][0]
        print(f"{made}: {kind}, {size / 1e9:.2f} GB")
