"""Qwen3-VL: text with any number of images and videos; the sound of a video is left out.

Beside what it puts into the prompt, its tower makes deep features: they are added to the hidden states behind the first
layers of the language model. In the prompt of a video, each pair of frames stands behind the time it is shown at.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import AutoProcessor, Qwen3VLForConditionalGeneration

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.media_probe import PROBE_CONTEXT, media_probe
from ams_pod.engines.builtin.prompts.media_prompts import Expansion, MediaPrompts
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.builtin.towers import vision
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.builtin.towers.patches import UNRESIZED, UNSCALED, patches_of
from ams_pod.media.items import Image, Video

PRELOAD = (
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
    "transformers.models.qwen3_vl.video_processing_qwen3_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "torchvision.transforms.v2.functional",
)


class Qwen3VlExpander:
    """Images and videos through the model's processor, in the sizes of its rules: it scales nothing itself."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.sizes = vision.sizes(processor, of_all_frames=True)
        self.placeholders: Mapping[str, str] = {"image": processor.image_token, "video": processor.video_token}

    def count(self, item: Image | Video) -> int:
        side = vision.factor(self._processor)
        if isinstance(item, Image):
            return vision.tokens(item, self.sizes, side)
        item = _whole_pairs(item)
        times = self._processor._calculate_timestamps(list(range(len(item.frames))), item.frame_rate)
        marks = [self._processor.tokenizer.backend_tokenizer.encode(f"<{time:.1f} seconds>").ids for time in times]
        return vision.tokens(item, self.sizes, side) + sum(len(ids) + 2 for ids in marks)

    def process(self, item: Image | Video, options: Mapping[str, Any] = UNRESIZED) -> Mapping[str, Tensor]:
        processor = self._processor
        if isinstance(item, Image):
            made = processor(
                text=[processor.image_token],
                images=[vision.picture(item, self.sizes)],
                images_kwargs=dict(options),
                return_tensors="pt",
            )
            return dict(made)
        item = _whole_pairs(item)
        made = processor(
            text=[processor.video_token],
            videos=[vision.frames_of(item, self.sizes)],
            videos_kwargs={
                "video_metadata": [vision.metadata(item)],
                "do_sample_frames": False,
                **options,
                "input_data_format": "channels_last",
            },
            return_tensors="pt",
        )
        return dict(made)

    def expand(self, item: Image | Video) -> Expansion:
        made = self.process(item, UNSCALED)
        ids = made["input_ids"][0].tolist()
        if isinstance(item, Image):
            patches = patches_of(
                self._processor.image_processor, made["pixel_values"], made["image_grid_thw"], still=True
            )
            token, layout = self._processor.image_token_id, vision.Layout("image", patches.grid)
        else:
            patches = patches_of(
                self._processor.video_processor, made["pixel_values_videos"], made["video_grid_thw"], still=False
            )
            token, layout = self._processor.video_token_id, vision.Layout("video", patches.grid)
        return Expansion(ids, vision.divide(patches, token), layout)


def _whole_pairs(item: Video) -> Video:
    """A video of at least two frames: the processor takes no single one."""
    if len(item.frames) > 1:
        return item
    frames = np.concatenate([item.frames, item.frames])
    return replace(item, frames=frames, timestamps=(item.timestamps[0], item.timestamps[0]))


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)

    def prompts(context: int) -> MediaPrompts:
        return MediaPrompts(processor.tokenizer, processor.chat_template, context, Qwen3VlExpander(processor))

    return Recipe(
        family="qwen3-vl",
        model_class=Qwen3VLForConditionalGeneration,
        tokenizer=processor.tokenizer,
        prompts=prompts,
        probe=lambda: media_probe(prompts(PROBE_CONTEXT), 2 * vision.factor(processor)),
        image_bytes=lambda model: vision.bytes_per_pixel(model.model.visual),
        embedder=lambda model: MediaEmbedder(
            model.get_input_embeddings(),
            {vision.TOWER: vision.VisionTower(model.model)},
            [model.model.visual],
            vision.VisionPositions(model.model),
        ),
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
