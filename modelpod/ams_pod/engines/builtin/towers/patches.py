"""Patches of pictures as they wait for a tower: in 8 bits, as they were decoded.

Normalized they take four times as much, and eight times for images, whose patches are the same in both frames that the
tower takes together: a photo of 12 megapixels 290 MB instead of 36, for each of the requests that wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ams_pod.engines.builtin.towers.interruptible import pause

UNRESIZED: Mapping[str, Any] = {"do_resize": False}
"""What a processor is told of pictures that have their size already."""

UNSCALED: Mapping[str, Any] = {**UNRESIZED, "do_rescale": False, "do_normalize": False}
"""So that it only divides them into patches."""

_AT_ONCE = 8192  # patches that are normalized between two pauses


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Of a grid of (time, height, width) patches.

    `pixels` are 8 bits [patches, channels, frames, values]; one frame stands for the `frames` that the tower takes.
    `mean` and `std` [channels] normalize them, in 8 bits too.
    """

    pixels: Tensor
    grid: tuple[int, int, int]
    frames: int
    mean: Tensor
    std: Tensor

    def part(self, start: int, end: int, grid: tuple[int, int, int]) -> "Patches":
        return replace(self, pixels=self.pixels[start:end], grid=grid)

    def normalized(self, device: Any = "cpu") -> Tensor:
        """[patches, values] as the processor makes them, in 32 bits."""
        mean, std = (each.to(device).view(1, -1, 1, 1) for each in (self.mean, self.std))
        results: list[Tensor] = []
        for some in self.pixels.split(_AT_ONCE):
            if results:
                pause()
            normal = some.to(device).to(torch.float32).sub_(mean).div_(std)
            results.append(normal.expand(-1, -1, self.frames, -1).flatten(1))
        return torch.cat(results) if len(results) > 1 else results[0]


def patches_of(processor: Any, pixels: Tensor, grid: Tensor, *, still: bool) -> Patches:
    """What an image or video `processor` made of one picture with UNSCALED; `still` for an image."""
    channels, frames = len(processor.image_mean), int(processor.temporal_patch_size)
    raw = pixels.to(torch.uint8).view(len(pixels), channels, frames, -1)
    scale = 1.0 / processor.rescale_factor  # as transformers puts both steps into one
    return Patches(
        raw[:, :, :1].clone() if still else raw,
        (int(grid[0][0]), int(grid[0][1]), int(grid[0][2])),
        frames,
        torch.tensor(processor.image_mean) * scale,
        torch.tensor(processor.image_std) * scale,
    )
