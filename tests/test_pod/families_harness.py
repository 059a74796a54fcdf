"""Families with media beside transformers' own processor and generate."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ams_pod.engines.builtin import torchvision_shim
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.builtin.towers.vision import frames_of, metadata, picture
from ams_pod.engines.port import Prepared
from ams_pod.media.items import Audio, Image, Video, content_part
from ams_pod.media.sizing import NO_RULES

torchvision_shim.install()

CONTEXT = 2400
RATE = 16_000
FRAME_SECONDS = 0.8  # between the frames of all videos: the omni processor takes one rate for a whole prompt


def image(seed: int, width: int, height: int) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def audio(seed: int, seconds: float) -> Audio:
    """Noise below a tone, so that clips differ in more than their length."""
    times = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(times))
    return Audio((0.2 * np.sin(2 * np.pi * 150 * (seed + 1) * times) + 0.05 * noise).astype(np.float32), RATE)


def video(seed: int, frames: int, sound: float | None = None) -> Video:
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, 84, 112, 3), np.uint8)
    times = tuple(FRAME_SECONDS * index for index in range(frames))
    return Video(pixels, times, FRAME_SECONDS * frames, None if sound is None else audio(seed, sound))


def user(*content: Any) -> list[dict[str, Any]]:
    parts = [{"type": "text", "text": item} if isinstance(item, str) else content_part(item) for item in content]
    return [{"role": "user", "content": parts}]


@dataclass
class Family:
    """A family's checkpoint, its prompts, and one module for its towers and for transformers' own answers.

    `scaled` is whether pictures are scaled as our side does it before transformers' processor sees them.
    """

    name: str
    folder: Path
    scaled: bool = True

    def __post_init__(self) -> None:
        from transformers import AutoProcessor

        self.recipe = family_module(self.name).recipe(self.folder)
        self.processor = AutoProcessor.from_pretrained(self.folder)
        self.prompts = self.recipe.prompts(CONTEXT)
        self.model = self.load_model()

    def load_model(self) -> Any:
        model = self.recipe.model_class.from_pretrained(
            self.folder, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        model.generation_config.eos_token_id = None
        model.generation_config.pad_token_id = 0
        model.generation_config.do_sample = False
        return model

    def prepare(self, *content: Any) -> Prepared:
        return self.prompts.chat(user(*content))

    def inputs(self, *content: Any) -> dict[str, Any]:
        """What transformers' processor makes of the whole prompt in one call."""
        bare = [{"type": "text", "text": item} if isinstance(item, str) else _bare(item) for item in content]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": bare}], add_generation_prompt=True, tokenize=False
        )
        return self.process(text, content)

    def process(self, text: str, content: Sequence[Any]) -> dict[str, Any]:
        sizes = self.prompts.sizes if self.scaled else NO_RULES
        images = [picture(item, sizes) for item in content if isinstance(item, Image)]
        videos = [item for item in content if isinstance(item, Video)]
        sounds, sources = [], []
        for item in content:
            if isinstance(item, Audio):
                sounds.append(item.samples)
                sources.append(None)
            elif isinstance(item, Video) and item.audio is not None and self.name == "omni":
                sounds.append(item.audio.samples)
                sources.append(videos.index(item))
        arguments: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
        if images:
            arguments["images"] = images
        if sounds:
            arguments |= {"audio": sounds, "audio_kwargs": {"sampling_rate": RATE}}
            if self.name == "omni":  # it pads to 300 seconds by default, which takes seconds and changes nothing
                arguments["audio_kwargs"]["max_length"] = 30 * RATE
        if videos:
            arguments["videos"] = [frames_of(item, sizes) for item in videos]
            if self.name == "omni":
                arguments["videos_kwargs"] = {"fps": 1 / FRAME_SECONDS, "do_sample_frames": False}
            else:
                more = [metadata(item) for item in videos]
                arguments["videos_kwargs"] = {"video_metadata": more, "do_sample_frames": False}
        with_sound = any(source is not None for source in sources)
        if with_sound:
            arguments |= {"load_audio_from_video": True, "audio_from_video_indices": sources}
        made = dict(self.processor(**arguments))
        if with_sound:
            made["use_audio_in_video"] = True
        return made

    def generate(self, inputs: dict[str, Any], new: int) -> list[int]:
        """Greedy tokens of transformers' own generate."""
        if hasattr(self.model.model, "rope_deltas"):
            self.model.model.rope_deltas = None
        with torch.inference_mode():
            made = self.model.generate(**inputs, max_new_tokens=new, min_new_tokens=new)
        return made[0, inputs["input_ids"].shape[1] :].tolist()


def _bare(item: Any) -> dict[str, str]:
    return {"type": type(item).__name__.lower()}
