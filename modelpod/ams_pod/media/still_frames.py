"""Videos that a client sends as images of their frames, which it chose itself."""

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from ams_pod.media import images
from ams_pod.media.frames import FrameOptions, choose_frames
from ams_pod.media.items import Video
from ams_pod.media.limits import MediaLimits, as_wished, undecodable
from ams_pod.media.sizing import SizeRule
from ams_pod.media.spool import Upload
from ams_pod.media.watch import Watch

_FRAMES_PER_SECOND = 2.0  # as qwen-vl-utils takes such frames to be


def need(frames: Sequence[Upload], field: str, options: FrameOptions, limits: MediaLimits) -> tuple[int, int]:
    """Memory of the decoded frames, and of decoding them, at most, in bytes."""
    chosen = _chosen(frames, options)
    kept, working = 0, 0
    for frame in chosen:
        with frame.open() as file:
            one, beside = images.need(file, field, _fit(len(chosen), field, options, limits), limits)
        kept, working = kept + one, max(working, beside)
    return kept, kept + working


def decode_frames(
    frames: Sequence[Upload], field: str, options: FrameOptions, limits: MediaLimits, watch: Watch
) -> Video:
    """All frames, or as many of them as the client wants; two a second, or as it says. ApiError as for images."""
    chosen = _chosen(frames, options)
    fit = _fit(len(chosen), field, options, limits)
    pictures = []
    for frame in chosen:
        with ExitStack() as stack:
            pictures.append(images.decode_image(stack.enter_context(frame.open()), field, limits, watch, fit).pixels)
        if pictures[-1].shape != pictures[0].shape:
            raise undecodable("video", field, f"its frame {len(pictures)} has another size than the first")
    rate = options.wishes.frames_per_second or _FRAMES_PER_SECOND
    times = [index / rate for index in choose_frames(range(len(frames)), len(chosen))]
    return Video(np.stack(pictures), tuple(times), len(frames) / rate, fitted=isinstance(fit, SizeRule))


def _chosen(frames: Sequence[Upload], options: FrameOptions) -> list[Upload]:
    count = min(len(frames), options.wishes.frames or len(frames))
    return [frames[index] for index in choose_frames(range(len(frames)), count)]


def _fit(frames: int, field: str, options: FrameOptions, limits: MediaLimits) -> SizeRule | int:
    if options.rule is not None:
        return as_wished(options.rule.of(frames), options.wishes, field)
    return min(limits.kept_frame_pixels, limits.kept_video_pixels // frames)
