"""Video to a few upright frames with their times, and its sound where a model listens.

Packets are read once without decoding, which tells when each frame is shown, also with a variable frame rate. Then
the chosen frames are decoded, each from the key frame before it, so that a long video costs no more than a few groups
of pictures.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO

import av
import numpy as np
import PIL.Image

from ams_pod.media import audio
from ams_pod.media.containers import decoded_frames, opened, packets
from ams_pod.media.frames import FrameOptions, choose_frames
from ams_pod.media.items import Audio, Pixels, Video
from ams_pod.media.limits import MediaLimits, as_wished, check_pixels, check_shape, too_long, undecodable
from ams_pod.media.sizing import frames_wanted
from ams_pod.media.watch import Watch

_SCALED_BYTES = 8  # a pixel of the frame that is scaled: in RGB, and as Pillow has it
_DEFAULT_PIXELS = 5_000_000  # what ffmpeg adds to a stream that is marked as the default
_DECODER_FRAMES = 24  # that a decoder may hold for reference, of 1.5 to 4 bytes a pixel
_PACKETS_A_CHECK = 256
_WITH_ALPHA = ("bgra", "rgba", "argb", "abgr", "pal8")


@dataclass(frozen=True, slots=True)
class _Index:
    """When the frames of a stream are shown, in its time base, ascending; and which begin a group of pictures.

    `last` is how long the last of them is shown; as long as the others on average where the file doesn't say.
    """

    shown: list[int]
    keys: list[int]
    last: int


def need(file: BinaryIO, field: str, options: FrameOptions, limits: MediaLimits, watch: Watch) -> tuple[int, int]:
    """Memory of the decoded video and of decoding it, at most, in bytes; ApiError if it is none, or too large a one."""
    sound = 0
    with opened(file, "video", field) as container:
        stream = _stream(container, field, limits)
        width, height, aspect = stream.codec_context.width, stream.codec_context.height, stream.sample_aspect_ratio
        if options.sound_rate is not None:
            sound = audio.sound_bytes(container, options.sound_rate, limits, watch)
        seconds = audio.declared_seconds(container)
    by_rate = options.wishes.frames_per_second is not None
    if by_rate and seconds is None:
        file.seek(0)
        with opened(file, "video", field) as container:
            seconds = audio.told_by_packets(container, _stream(container, field, limits), watch)
    frames = frames_wanted(options.wishes, options.frames, limits.video_seconds if seconds is None else seconds + 1)
    high, wide = _shown_size(width, height, aspect, frames, options, field, limits)
    kept = high * wide * 3 * frames
    # Beside what is kept: the frames until they are stacked, and what a decoder holds with the frame that is scaled;
    # when those are done, the pieces of the sound.
    return kept + sound, max(kept + width * height * (2 * _DECODER_FRAMES + _SCALED_BYTES), sound)


def decode_video(file: BinaryIO, field: str, options: FrameOptions, limits: MediaLimits, watch: Watch) -> Video:
    """As many frames as are wanted, evenly spaced over the time of the video, and its sound.

    A file that is cut off gives what is there. ApiError `undecodable_video` or `media_too_large`.
    """
    with opened(file, "video", field) as container:
        stream = _stream(container, field, limits)
        index = _read_index(container, stream, watch)
        if not index.shown:
            raise undecodable("video", field, "it holds no frames")
        base = stream.time_base or Fraction(1, 1)
        seconds = float((index.shown[-1] + index.last - index.shown[0]) * base)
        if seconds > limits.video_seconds:
            raise too_long(field, "the video", limits.video_seconds, seconds)
        wanted = frames_wanted(options.wishes, options.frames, seconds)
        chosen = [index.shown[at] for at in choose_frames([float(time * base) for time in index.shown], wanted)]
        counted = container.format.name == "avi"  # its times are those of decoding, so frames are counted instead
        source = _Source(container, stream, index, watch, counted=counted)
        pictures = list(_pick(source, chosen, field, options, stream.sample_aspect_ratio, limits))
    if not pictures:
        raise undecodable("video", field, "none of its frames can be decoded")
    track = None
    if options.sound_rate is not None:
        file.seek(0)
        track = _sound(file, field, options.sound_rate, limits, watch)
    first = index.shown[0]
    return Video(
        frames=np.stack([picture for _, picture in pictures]),
        timestamps=tuple(float((time - first) * base) for time, _ in pictures),
        seconds=seconds,
        audio=track,
        fitted=options.rule is not None,
    )


def _stream(container: Any, field: str, limits: MediaLimits) -> Any:
    """Of several, the one that ffmpeg takes: the largest, and one that is marked as the default before others."""
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not streams:
        raise undecodable("video", field, "it has no pictures")
    stream = max(streams, key=_rank)
    context = stream.codec_context
    check_shape(field, context.width, context.height, limits, "video")
    check_pixels(field, context.width, context.height, limits.frame_pixels, "a frame of the video")
    context.thread_count = 1
    return stream


def _rank(stream: Any) -> int:
    context = stream.codec_context
    default = stream.disposition & av.stream.Disposition.default
    return int(context.width * context.height + (_DEFAULT_PIXELS if default else 0))


def _read_index(container: Any, stream: Any, watch: Watch) -> _Index:
    shown, keys = [], []
    last: tuple[int, int] = (0, 0)
    for number, packet in enumerate(packets(container, stream)):
        if number % _PACKETS_A_CHECK == 0:
            watch.check()
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or packet.is_discard:
            continue
        shown.append(time)
        last = max(last, (time, packet.duration or 0))
        if packet.is_keyframe:
            keys.append(time)
    shown = sorted(set(shown))
    usual = (shown[-1] - shown[0]) // (len(shown) - 1) if len(shown) > 1 else 0
    return _Index(shown, sorted(keys), last[1] or usual)


class _Source:
    """Decoded frames in the order of their times, requested with rising times."""

    def __init__(self, container: Any, stream: Any, index: _Index, watch: Watch, counted: bool) -> None:
        self._container, self._stream, self._index, self._watch = container, stream, index, watch
        self._counted = counted
        self._frames: Iterator[tuple[int, Any]] | None = None
        self._current: tuple[int, Any] | None = None

    def until(self, time: int) -> tuple[int, Any] | None:
        """The frame of this time, and when it is shown; where it is broken the next, or the last there is."""
        if self._current is not None and self._current[0] >= time:
            return self._current
        if self._frames is None or (self._current is not None and self._key_before(time) > self._current[0]):
            self._frames = self._from_key(self._key_before(time))
        for shown, frame in self._frames:
            self._current = shown, frame
            if shown >= time:
                break
        return self._current

    def _key_before(self, time: int) -> int:
        """The key frame from which `time` is reached; where frames are counted, the first."""
        at = 0 if self._counted else bisect_right(self._index.keys, time)
        return self._index.keys[at - 1] if at else self._index.shown[0]

    def _from_key(self, key: int) -> Iterator[tuple[int, Any]]:
        """Frames from this key frame or an earlier one on; containers without an index may land behind it at first."""
        second = int(1 / self._stream.time_base) if self._stream.time_base else 1
        for before in (0, second, 10 * second, key - self._index.shown[0] + second):
            self._container.seek(key - before, stream=self._stream, backward=True)
            frames = self._decoded()
            if (first := next(frames, None)) is not None and first[0] <= key:
                return itertools.chain([first], frames)
        return iter(()) if first is None else itertools.chain([first], frames)

    def _decoded(self) -> Iterator[tuple[int, Any]]:
        for number, frame in enumerate(decoded_frames(self._container, self._stream, self._watch)):
            if self._counted and number < len(self._index.shown):
                yield self._index.shown[number], frame
            elif frame.pts is not None and not self._counted:
                yield frame.pts, frame


def _pick(
    source: _Source, chosen: list[int], field: str, options: FrameOptions, aspect: Fraction | None, limits: MediaLimits
) -> Iterator[tuple[int, Pixels]]:
    """(time, picture) of the chosen times; where a broken file has no such frame, the one before it, each once."""
    size: tuple[int, int] | None = None
    last: int | None = None
    for time in chosen:
        if (found := source.until(time)) is None:
            continue
        shown, frame = found
        if shown == last:
            continue
        last = shown
        check_pixels(field, frame.width, frame.height, limits.frame_pixels, "a frame of the video")
        size = size or _shown_size(frame.width, frame.height, aspect, len(chosen), options, field, limits)
        yield shown, _upright(_scaled(frame, size), _display_matrix(frame))


def _scaled(frame: Any, size: tuple[int, int]) -> Pixels:
    """The frame in RGB at (height, width): its colours first, then scaled once, as images are."""
    picture = PIL.Image.fromarray(frame.to_ndarray(format="rgb24"))
    if frame.format.name in _WITH_ALPHA:  # an animated GIF's
        alpha = PIL.Image.fromarray(frame.to_ndarray(format="rgba")[:, :, 3])
        white = PIL.Image.new("RGB", picture.size, (255, 255, 255))
        white.paste(picture, mask=alpha)
        picture = white
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), PIL.Image.Resampling.BICUBIC)
    return np.asarray(picture)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """(a, b, c, d): a point (x, y) of the frame is shown at (a·x + c·y, b·x + d·y)."""
    data = frame.side_data.get("DISPLAYMATRIX")
    if data is None:
        return 1, 0, 0, 1
    matrix = np.frombuffer(bytes(data), np.int32)
    return (int(matrix[0]), int(matrix[1]), int(matrix[3]), int(matrix[4])) if len(matrix) == 9 else (1, 0, 0, 1)


def _upright(picture: Pixels, matrix: tuple[int, int, int, int]) -> Pixels:
    """The picture as it is shown, turned by right angles and mirrored; other angles count as the nearest of them."""
    a, b, c, d = matrix
    if abs(a) + abs(d) < abs(b) + abs(c):
        picture, across, down = picture.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _shown_size(
    width: int,
    height: int,
    aspect: Fraction | None,
    frames: int,
    options: FrameOptions,
    field: str,
    limits: MediaLimits,
) -> tuple[int, int]:
    """(height, width) of each of so many frames with square pixels, by the model's rule or what the limits keep."""
    stretch = float(aspect) if aspect and 1 / 8 <= aspect <= 8 else 1.0
    wide = max(1, round(width * stretch))
    if options.rule is not None:
        return as_wished(options.rule.of(frames), options.wishes, field).size(height, wide)
    pixels = min(limits.kept_frame_pixels, limits.kept_video_pixels // frames)
    scale = min(1.0, (min(pixels, options.wishes.max_pixels or pixels) / (wide * height)) ** 0.5)
    return max(1, round(height * scale)), max(1, round(wide * scale))


def _sound(file: BinaryIO, field: str, rate: int, limits: MediaLimits, watch: Watch) -> Audio | None:
    with opened(file, "video", field) as container:
        if not container.streams.audio:
            return None
        samples = audio.sound(container, container.streams.audio[0], field, "the video's sound", rate, limits, watch)
    return Audio(samples, rate) if len(samples) else None
