"""Images and videos for Qwen's vision towers: what the processor makes of them, and the tower itself.

Shared by the families of Qwen's models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image as Picture
from torch import Tensor
from transformers.video_utils import VideoMetadata

from ams_pod.engines.builtin.prompts.media_prompts import MediaInputs
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.towers.queue import Features
from ams_pod.media.items import Image, Video

PATCHES_PER_CALL = 3072
"""Bound of one call of a vision tower, in patches (of 14 × 14 pixels, two frames deep, for Qwen2.5).

Two frames of a video share their patches and aren't divided; `FRAME_PIXELS` keeps them within the bound. An image isn't
divided either: one that has more goes alone, and `IMAGE_PIXELS` bounds it.
"""

FRAME_PIXELS = 768 * 28 * 28
"""The most pixels that a frame of a video keeps.

So do the models' authors (qwen-vl-utils), and the omni processor. The vision-language checkpoints' own configuration
allows a frame as much as an image, so that a short video in full HD would take more than ten thousand tokens.
"""

IMAGE_PIXELS = 4096 * 28 * 28
"""The most pixels that an image keeps, 4,096 tokens: about 1,800 × 1,800.

The checkpoints allow four times as many, so that one photo of a phone would fill a context and hold the tower, and with
it everybody, for 65,536 patches. So the longest call of a tower is for one image of 16,384.
"""

TOWER = "vision"

PROBE_SIZE = {"shortest_edge": 1, "longest_edge": 64 * 64}
"""Bounds of pixels, as the processors' argument `size`, that make an image of the probe four tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """`pixels` [patches, values] of a grid of (time, height, width) patches."""

    pixels: Tensor
    grid: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an image or video lies: its grid of patches; seconds from one patch in time to the next, of a video."""

    kind: str
    grid: tuple[int, int, int]
    seconds: float = 0.0


def picture(image: Image) -> Any:
    """As processors take it, within the bound; an array of a few pixels leaves them guessing where the colours are."""
    made = Picture.fromarray(image.pixels)
    height, width = kept_size(image)
    return made if made.size == (width, height) else made.resize((width, height), Picture.Resampling.BICUBIC)


def kept_size(image: Image) -> tuple[int, int]:
    """(height, width) within IMAGE_PIXELS, in the image's own proportions."""
    height, width, _ = image.pixels.shape
    if height * width <= IMAGE_PIXELS:
        return height, width
    scale = (IMAGE_PIXELS / (height * width)) ** 0.5
    return max(1, int(height * scale)), max(1, int(width * scale))


def metadata(video: Video) -> VideoMetadata:
    """What tells the model when the frames are shown: they count as evenly spaced over their time."""
    frames = len(video.timestamps)
    return VideoMetadata(
        total_num_frames=frames,
        fps=frame_rate(video),
        duration=video.seconds,
        frames_indices=list(range(frames)),
    )


def frame_rate(video: Video) -> float:
    """Frames a second among those that were taken of the video."""
    times = video.timestamps
    span = times[-1] - times[0]
    if len(times) > 1 and span > 0:
        return (len(times) - 1) / span
    return 1 / video.seconds if video.seconds > 0 else 1.0


def frame_size(processor: Any) -> dict[str, int]:
    """The bounds of a frame in pixels, as the video processor's argument `size`."""
    own = processor.video_processor.size
    return {"shortest_edge": own["shortest_edge"], "longest_edge": min(own["longest_edge"], FRAME_PIXELS)}


def tokens(processor: Any, item: Image | Video, **videos_kwargs: Any) -> int:
    """How many tokens an image or the frames of a video will take, with `videos_kwargs` for the video processor."""
    if isinstance(item, Image):
        counts = processor._get_num_multimodal_tokens(image_sizes=[kept_size(item)]).num_image_tokens
    else:
        sizes = [item.frames.shape[:3]]
        counts = processor._get_num_multimodal_tokens(video_sizes=sizes, videos_kwargs=videos_kwargs).num_video_tokens
    return int(counts[0])


def divide(patches: Patches, token: int) -> list[Piece]:
    """Pieces within the bound. Patches of different times never meet in the tower, so a video may be cut there."""
    time, height, width = patches.grid
    flat = height * width
    step = max(1, PATCHES_PER_CALL // flat)
    pieces = []
    for start in range(0, time, step):
        count = min(step, time - start)
        part = Patches(patches.pixels[start * flat : (start + count) * flat], (count, height, width))
        pieces.append(Piece(TOWER, token, count * flat / PATCHES_PER_CALL, part))
    return pieces


class VisionTower:
    """One call of the model's own tower for several images and parts of videos."""

    def __init__(self, model: Any) -> None:
        """`model` has get_image_features, as transformers' Qwen models have; it serves videos as well."""
        self._model = model

    def __call__(self, inputs: Sequence[Patches]) -> list[Features]:
        device = self._model.device
        pixels = torch.cat([patches.pixels for patches in inputs]).to(device)
        grids = torch.tensor([patches.grid for patches in inputs], device=device)
        output = self._model.get_image_features(pixels, grids)
        embeds = output.pooler_output
        layers = getattr(output, "deepstack_features", None)
        if not layers:
            return [Features(each) for each in embeds]
        return [Features(each, torch.stack(deep)) for each, *deep in zip(embeds, *layers, strict=True)]


class VisionPositions:
    """Rope positions of a prompt, by the rule of the model, which tells images and videos by their tokens."""

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


def grid_of(rows: Tensor) -> tuple[int, int, int]:
    time, height, width = rows[0].tolist()
    return time, height, width
