"""Which frames of a video are taken."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from ams_pod.media.sizing import NO_WISHES, FrameRule, Wishes


@dataclass(frozen=True, slots=True)
class FrameOptions:
    """What is taken of a video: so many frames where the client is silent, by this rule of their size, None for what
    the limits keep; and its sound at `sound_rate` Hz, None for none."""

    frames: int
    sound_rate: int | None = None
    rule: FrameRule | None = None
    wishes: Wishes = NO_WISHES


def choose_frames(times: Sequence[float], count: int) -> list[int]:
    """Indices of at most `count` of the frames that are shown from `times` (ascending), first and last among them.

    They are what is on screen at instants that are evenly spaced from the first frame's time to the last one's. A frame
    that stands for several instants is taken once, so a video of few frames gives fewer.
    """
    if not times:
        return []
    if count == 1:
        middle = (times[0] + times[-1]) / 2
        return [bisect_right(times, middle) - 1]
    step = (times[-1] - times[0]) / (count - 1)
    instants = [times[0] + step * index for index in range(count - 1)] + [times[-1]]
    return sorted({max(0, bisect_right(times, instant + 1e-6) - 1) for instant in instants})
