"""How large the pictures are that a model sees: the rule of its authors, and what a client asks within it."""

import math
from dataclasses import dataclass, replace

MAX_FRAMES = 256
"""The most frames that a request may ask of one video."""

_LEAST_FRAMES = 4  # of a video by frames a second, as qwen-vl-utils takes them
_FRAMES_A_PATCH = 2
LOW_DETAIL_PIXELS = 512 * 512
"""What `detail: low` keeps of an image, as in OpenAI's API."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a client asks of one item beside the model's own way; None where it is silent.

    Pixels are those of an image or of each frame. `sound` is whether the sound of a video is heard.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None
    frames: int | None = None
    frames_per_second: float | None = None
    sound: bool | None = None

    def over(self, other: "Wishes") -> "Wishes":
        """These, and those of `other` where these are silent.

        One of the two ways to ask for frames silences both, and a bound of pixels what of `other` contradicts it.
        """
        frames = self if self.frames is not None or self.frames_per_second is not None else other
        least = self.min_pixels if self.min_pixels is not None else other.min_pixels
        most = self.max_pixels if self.max_pixels is not None else other.max_pixels
        if least is not None and most is not None and least > most:
            least, most = (self.min_pixels, most) if self.max_pixels is not None else (least, None)
        return Wishes(
            least,
            most,
            frames.frames,
            frames.frames_per_second,
            self.sound if self.sound is not None else other.sound,
        )


NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class SizeRule:
    """Sides are multiples of `factor`, the pixels between both bounds, the proportions as near as that allows."""

    factor: int
    min_pixels: int
    max_pixels: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that an image of this size gets: smart_resize of qwen-vl-utils."""
        factor = self.factor
        high, wide = max(factor, round(height / factor) * factor), max(factor, round(width / factor) * factor)
        if high * wide > self.max_pixels:
            scale = math.sqrt(height * width / self.max_pixels)
            high = max(factor, math.floor(height / scale / factor) * factor)
            wide = max(factor, math.floor(width / scale / factor) * factor)
        elif high * wide < self.min_pixels:
            scale = math.sqrt(self.min_pixels / (height * width))
            high, wide = math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
        return high, wide

    def within(self, max_pixels: int) -> "SizeRule":
        """The same rule with this upper bound, if it is lower."""
        most = min(self.max_pixels, max_pixels)
        return replace(self, min_pixels=min(self.min_pixels, most), max_pixels=most)


@dataclass(frozen=True, slots=True)
class FrameRule:
    """The rule of each frame of a video, and the most pixels that all of them keep together, None for no such bound."""

    frame: SizeRule
    total_pixels: int | None = None

    def of(self, frames: int) -> SizeRule:
        """The rule of each of so many frames."""
        if self.total_pixels is None:
            return self.frame
        return self.frame.within(max(self.total_pixels // max(1, frames), int(self.frame.min_pixels * 1.05)))


@dataclass(frozen=True, slots=True)
class Sizes:
    """The rules of a model for images and videos; None where its processor scales by itself."""

    image: SizeRule | None = None
    video: FrameRule | None = None

    def within(self, max_image_pixels: int) -> "Sizes":
        return self if self.image is None else replace(self, image=self.image.within(max_image_pixels))


NO_RULES = Sizes()


def frames_wanted(wishes: Wishes, usual: int, seconds: float) -> int:
    """How many frames are taken of a video that lasts so many `seconds`: `usual` where the client is silent.

    By frames a second it is an even number and at least 4, as qwen-vl-utils counts them; at most MAX_FRAMES.
    """
    if wishes.frames is not None:
        return wishes.frames
    if wishes.frames_per_second is None:
        return usual
    wanted = min(max(seconds * wishes.frames_per_second, _LEAST_FRAMES), MAX_FRAMES)
    return int(wanted // _FRAMES_A_PATCH * _FRAMES_A_PATCH)
