"""Qwen3-VL: text with any number of images and videos; the sound of a video is left out.

Beside what it puts into the prompt, its tower makes deep features: they are added to the hidden states behind the first
layers of the language model. In the prompt of a video, each pair of frames stands behind the time it is shown at.
"""

from collections.abc import Mapping
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
from ams_pod.media.items import Image, Video

PRELOAD = (
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl.processing_qwen3_vl",
    "transformers.models.qwen3_vl.video_processing_qwen3_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "torchvision.transforms.v2.functional",
)

_FRAME_PIXELS = 768 * 32 * 32
"""The most pixels that a frame of a video keeps, 768 tokens, as the models' authors do (qwen-vl-utils)."""


class Qwen3VlExpander:
    """Images and videos through the model's processor. `size` are other bounds of pixels than those of the model."""

    def __init__(self, processor: Any, size: Mapping[str, int] | None = None) -> None:
        self._processor = processor
        self._size = size
        self._image_options = {} if size is None else {"images_kwargs": {"size": dict(size)}}
        self.placeholders: Mapping[str, str] = {"image": processor.image_token, "video": processor.video_token}

    def count(self, item: Image | Video) -> int:
        if isinstance(item, Image):
            return vision.tokens(self._processor, item)
        item = _whole_pairs(item)
        videos_kwargs = {"size": self._video_size(item)}
        times = self._processor._calculate_timestamps(list(range(len(item.frames))), vision.frame_rate(item))
        marks = [self._processor.tokenizer.backend_tokenizer.encode(f"<{time:.1f} seconds>").ids for time in times]
        counts = self._processor._get_num_multimodal_tokens(
            video_sizes=[item.frames.shape[:3]], videos_kwargs=videos_kwargs
        )
        return int(counts.num_video_tokens[0]) + sum(len(ids) + 2 for ids in marks)

    def process(self, item: Image | Video) -> Mapping[str, Tensor]:
        processor = self._processor
        if isinstance(item, Image):
            made = processor(
                text=[processor.image_token], images=[vision.picture(item)], return_tensors="pt", **self._image_options
            )
            return dict(made)
        item = _whole_pairs(item)
        made = processor(
            text=[processor.video_token],
            videos=[item.frames],
            videos_kwargs={
                "video_metadata": [vision.metadata(item)],
                "do_sample_frames": False,
                "size": self._video_size(item),
                "input_data_format": "channels_last",
            },
            return_tensors="pt",
        )
        return dict(made)

    def expand(self, item: Image | Video) -> Expansion:
        made = self.process(item)
        ids = made["input_ids"][0].tolist()
        if isinstance(item, Image):
            patches = vision.Patches(made["pixel_values"], vision.grid_of(made["image_grid_thw"]))
            token, layout = self._processor.image_token_id, vision.Layout("image", patches.grid)
        else:
            patches = vision.Patches(made["pixel_values_videos"], vision.grid_of(made["video_grid_thw"]))
            token, layout = self._processor.video_token_id, vision.Layout("video", patches.grid)
        return Expansion(ids, vision.divide(patches, token), layout)

    def _video_size(self, item: Video) -> dict[str, int]:
        """Bounds of the pixels of all frames together, as the video processor's argument `size`."""
        frames = len(item.frames)
        if self._size is not None:
            return {"shortest_edge": self._size["shortest_edge"], "longest_edge": self._size["longest_edge"] * frames}
        own = self._processor.video_processor.size
        longest = min(own["longest_edge"], _FRAME_PIXELS * frames)
        return {"shortest_edge": min(own["shortest_edge"], longest), "longest_edge": longest}


def _whole_pairs(item: Video) -> Video:
    """A video of at least two frames: the processor takes no single one."""
    if len(item.frames) > 1:
        return item
    frames = np.concatenate([item.frames, item.frames])
    return Video(frames, (item.timestamps[0], item.timestamps[0]), item.seconds, item.audio)


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)

    def prompts(context: int, size: Mapping[str, int] | None = None) -> MediaPrompts:
        return MediaPrompts(processor.tokenizer, processor.chat_template, context, Qwen3VlExpander(processor, size))

    return Recipe(
        family="qwen3-vl",
        model_class=Qwen3VLForConditionalGeneration,
        tokenizer=processor.tokenizer,
        prompts=prompts,
        probe=lambda: media_probe(prompts(PROBE_CONTEXT, vision.PROBE_SIZE)),
        embedder=lambda model: MediaEmbedder(
            model.get_input_embeddings(),
            {vision.TOWER: vision.VisionTower(model.model)},
            [model.model.visual],
            vision.VisionPositions(model.model),
        ),
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
