"""Decoded media, as families take them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """`pixels` is RGB [height, width, 3], upright. `fitted` is true where they have the size that the model sees."""

    pixels: Pixels
    fitted: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """`samples` are mono [samples] in -1…1 at `rate` Hz."""

    samples: Samples
    rate: int

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """`frames` are RGB [frames, height, width, 3], upright; `timestamps[i]` is when frame i is shown, in seconds.

    `seconds` is the length of the whole video; `audio` its sound track, None where there is none. `fitted` is as of an
    image.
    """

    frames: Pixels
    timestamps: tuple[float, ...]
    seconds: float
    audio: Audio | None = None
    fitted: bool = False

    @property
    def frame_rate(self) -> float:
        """Frames a second among those that were taken of the video."""
        span = self.timestamps[-1] - self.timestamps[0]
        if len(self.timestamps) > 1 and span > 0:
            return (len(self.timestamps) - 1) / span
        return 1 / self.seconds if self.seconds > 0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """A document as images of its pages, in their order."""

    images: tuple[Image, ...]


Media = Image | Audio | Video
Decoded = Media | Pages
"""What one file of a request becomes."""


def flat(items: Iterable[Decoded]) -> list[Media]:
    """All media, pages among them one by one."""
    found: list[Media] = []
    for item in items:
        found += item.images if isinstance(item, Pages) else [item]
    return found


def content_part(item: Media) -> dict[str, Any]:
    """The item as a content part of a message: {"type": "image", "image": Image} and so on."""
    kind = type(item).__name__.lower()
    return {"type": kind, kind: item}
