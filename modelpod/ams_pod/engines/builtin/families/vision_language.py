"""Vision-language: Qwen2.5-VL. Text with any number of images and videos; a video's sound is not heard."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, Recipe, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.media_prompts import Expansion, MediaInputs, MediaPrompts
from ams_pod.engines.builtin.towers import vision
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.media.items import Image, Video

PRELOAD = (
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.qwen2_vl.video_processing_qwen2_vl",
    "torchvision.transforms.v2.functional",
)


class VisionExpander:
    """Images and videos through the model's processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._frame_size = vision.frame_size(processor)
        self.placeholders: Mapping[str, str] = {"image": processor.image_token, "video": processor.video_token}

    def count(self, item: Image | Video) -> int:
        return vision.tokens(self._processor, item, size=self._frame_size)

    def expand(self, item: Image | Video) -> Expansion:
        processor = self._processor
        if isinstance(item, Image):
            made = processor(text=[processor.image_token], images=[vision.picture(item)], return_tensors="pt")
            patches = vision.Patches(made["pixel_values"], vision.grid_of(made["image_grid_thw"]))
            token, layout = processor.image_token_id, vision.Layout("image", patches.grid)
        else:
            made = processor(
                text=[processor.video_token],
                videos=[item.frames],
                videos_kwargs={
                    "video_metadata": [vision.metadata(item)],
                    "do_sample_frames": False,
                    "size": self._frame_size,
                    "input_data_format": "channels_last",
                },
                return_tensors="pt",
            )
            patches = vision.Patches(made["pixel_values_videos"], vision.grid_of(made["video_grid_thw"]))
            layout = vision.Layout("video", patches.grid, float(made["second_per_grid_ts"][0]))
            token = processor.video_token_id
        return Expansion(made["input_ids"][0].tolist(), vision.divide(patches, token), layout)


class VisionPositions:
    """Rope positions of a prompt, by the model's own rule."""

    def __init__(self, model: Any) -> None:
        self._model, self._config = model, model.config

    def __call__(self, ids: Tensor, media: MediaInputs) -> Tensor:
        kinds = torch.zeros_like(ids)
        kinds[ids == self._config.image_token_id] = 1
        kinds[ids == self._config.video_token_id] = 2
        images = [layout.grid for layout in media.layouts if layout.kind == "image"]
        videos = [layout for layout in media.layouts if layout.kind == "video"]
        positions: Tensor = self._model.get_rope_index(
            ids[None],
            mm_token_type_ids=kinds[None],
            image_grid_thw=torch.tensor(images) if images else None,
            video_grid_thw=torch.tensor([layout.grid for layout in videos]) if videos else None,
            second_per_grid_ts=torch.tensor([layout.seconds for layout in videos]) if videos else None,
        )[0]
        return positions[:, 0]


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)
    return Recipe(
        family="vision-language",
        model_class=AutoModelForImageTextToText,
        tokenizer=processor.tokenizer,
        prompts=lambda context: MediaPrompts(
            processor.tokenizer, processor.chat_template, context, VisionExpander(processor)
        ),
        embedder=lambda model: MediaEmbedder(
            model.get_input_embeddings(),
            {vision.TOWER: vision.VisionTower(model.model)},
            [model.model.visual],
            VisionPositions(model.model),
        ),
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
