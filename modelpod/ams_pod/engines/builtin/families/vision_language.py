"""Vision-language: Qwen2.5-VL. Text with any number of images and videos; the sound of a video is left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

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
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl",
    "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "transformers.models.qwen2_vl.image_processing_qwen2_vl",
    "transformers.models.qwen2_vl.video_processing_qwen2_vl",
    "torchvision.transforms.v2.functional",
)


class VisionExpander:
    """Images and videos through the model's processor, in the sizes of its rules: it scales nothing itself."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.sizes = vision.sizes(processor)
        self.placeholders: Mapping[str, str] = {"image": processor.image_token, "video": processor.video_token}

    def count(self, item: Image | Video) -> int:
        return vision.tokens(item, self.sizes, vision.factor(self._processor))

    def process(self, item: Image | Video, options: Mapping[str, Any] = UNRESIZED) -> Mapping[str, Tensor]:
        processor = self._processor
        if isinstance(item, Image):
            made = processor(
                text=[processor.image_token],
                images=[vision.picture(item, self.sizes)],
                images_kwargs=dict(options),
                return_tensors="pt",
            )
        else:
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
        if isinstance(item, Image):
            patches = patches_of(
                self._processor.image_processor, made["pixel_values"], made["image_grid_thw"], still=True
            )
            token, layout = self._processor.image_token_id, vision.Layout("image", patches.grid)
        else:
            patches = patches_of(
                self._processor.video_processor, made["pixel_values_videos"], made["video_grid_thw"], still=False
            )
            layout = vision.Layout("video", patches.grid, float(made["second_per_grid_ts"][0]))
            token = self._processor.video_token_id
        return Expansion(made["input_ids"][0].tolist(), vision.divide(patches, token), layout)


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)

    def prompts(context: int) -> MediaPrompts:
        return MediaPrompts(processor.tokenizer, processor.chat_template, context, VisionExpander(processor))

    return Recipe(
        family="vision-language",
        model_class=AutoModelForImageTextToText,
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
