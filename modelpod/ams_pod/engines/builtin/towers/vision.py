"""Images and videos for Qwen's vision towers: what the processor makes of them, and the tower itself.

Shared by the families of Qwen's models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor
from transformers.video_utils import VideoMetadata

from ams_pod.engines.builtin.prompts.media_prompts import MediaInputs
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.towers.patches import Patches
from ams_pod.engines.builtin.towers.queue import Features
from ams_pod.media.items import Image, Pixels, Video
from ams_pod.media.sizing import FrameRule, SizeRule, Sizes

PATCHES_PER_CALL = 3072
"""Bound of one call of a vision tower, in patches (of 14 × 14 pixels, two frames deep, for Qwen2.5).

Two frames of a video share their patches and aren't divided; the rule of frames keeps them within the bound. An image
isn't divided either: one that has more goes alone, and is interrupted within its layers.
"""

_FRAME_TOKENS = (128, 768)
"""The least and most tokens of a frame, by the models' authors (qwen-vl-utils).

The vision-language checkpoints' own configuration allows a frame as much as an image, so that a short video in full HD
would take more than ten thousand tokens; and as little, so that a small one would be seen worse than its authors do.
"""

TOWER = "vision"

_BYTES_PER_FEATURE = 60
"""What the tower's call for one image takes of memory, for each patch and each feature of a hidden state.

Measured: 44 to 60 bytes with 16,384 and 4,096 patches of Qwen2.5-VL's tower, in either precision, as rotations are
computed in 32 bits.
"""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an image or video lies: its grid of patches; seconds from one patch in time to the next, of a video."""

    kind: str
    grid: tuple[int, int, int]
    seconds: float = 0.0


def factor(processor: Any) -> int:
    """Pixels of a token's side."""
    own = processor.image_processor
    return int(own.patch_size * own.merge_size)


def bytes_per_pixel(tower: Any) -> float:
    """What the tower's call for one image takes of memory, at most."""
    return float(_BYTES_PER_FEATURE * tower.config.hidden_size / tower.config.patch_size**2)


def sizes(processor: Any, *, of_all_frames: bool = False) -> Sizes:
    """The rules that the checkpoint and its authors have; `of_all_frames` where its own of videos are for them all."""
    side, image = factor(processor), processor.image_processor.size
    video = getattr(processor, "videos_kwargs", {}).get("size") or processor.video_processor.size
    shortest, longest = int(video["shortest_edge"]), int(video["longest_edge"])
    least, most = (tokens * side * side for tokens in _FRAME_TOKENS)
    if longest < most:  # a checkpoint of toy pictures
        least = min(shortest, longest)
    frame = SizeRule(side, least, most if of_all_frames else min(most, longest))
    return Sizes(
        SizeRule(side, int(image["shortest_edge"]), int(image["longest_edge"])),
        FrameRule(frame, longest if of_all_frames else None),
    )


def picture(image: Image, rules: Sizes) -> Any:
    """As processors take it, in the size that the model sees; an array of a few pixels leaves them guessing where the
    colours are."""
    return _resized(image.pixels, size_of(image, rules))


def frames_of(video: Video, rules: Sizes) -> Pixels:
    """All frames in the size that the model sees."""
    size = size_of(video, rules)
    if video.frames.shape[1:3] == size:
        return video.frames
    return np.stack([np.asarray(_resized(frame, size)) for frame in video.frames])


def _resized(pixels: Pixels, size: tuple[int, int]) -> Any:
    made, (height, width) = Picture.fromarray(pixels), size
    return made if made.size == (width, height) else made.resize((width, height), Picture.Resampling.BICUBIC)


def size_of(item: Image | Video, rules: Sizes) -> tuple[int, int]:
    """(height, width) that the model sees."""
    if isinstance(item, Image):
        height, width = item.pixels.shape[:2]
        rule = rules.image
    else:
        height, width = item.frames.shape[1:3]
        rule = rules.video.of(len(item.frames)) if rules.video is not None else None
    return (height, width) if item.fitted or rule is None else rule.size(height, width)


def metadata(video: Video) -> VideoMetadata:
    """What tells the model when the frames are shown: they count as evenly spaced over their time."""
    frames = len(video.timestamps)
    return VideoMetadata(
        total_num_frames=frames,
        fps=video.frame_rate,
        duration=video.seconds,
        frames_indices=list(range(frames)),
    )


def tokens(item: Image | Video, rules: Sizes, side: int) -> int:
    """How many tokens an image or the frames of a video will take, each of `side` × `side` pixels."""
    height, width = size_of(item, rules)
    pairs = -(-len(item.frames) // 2) if isinstance(item, Video) else 1
    return pairs * (height // side) * (width // side)


def divide(patches: Patches, token: int) -> list[Piece]:
    """Pieces within the bound. Patches of different times never meet in the tower, so a video may be cut there."""
    time, height, width = patches.grid
    flat = height * width
    step = max(1, PATCHES_PER_CALL // flat)
    pieces = []
    for start in range(0, time, step):
        count = min(step, time - start)
        part = patches.part(start * flat, (start + count) * flat, (count, height, width))
        pieces.append(Piece(TOWER, token, count * flat / PATCHES_PER_CALL, part))
    return pieces


class VisionTower:
    """One call of the model's own tower for several images and parts of videos."""

    def __init__(self, model: Any) -> None:
        """`model` has get_image_features, as transformers' Qwen models have; it serves videos as well."""
        self._model = model

    def __call__(self, inputs: Sequence[Patches]) -> list[Features]:
        device = self._model.device
        parts = [patches.normalized(device) for patches in inputs]
        pixels = parts[0] if len(parts) == 1 else torch.cat(parts)
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
