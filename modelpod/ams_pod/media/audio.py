"""Audio to mono at the model's rate."""

from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np

from ams_pod.media.containers import decoded_frames, opened, packets
from ams_pod.media.items import Audio, Samples
from ams_pod.media.limits import MediaLimits, too_long, undecodable
from ams_pod.media.watch import Watch

BYTES_PER_SAMPLE = 4
_MICROSECONDS = 1_000_000
_PACKETS_A_CHECK = 256
_FLOATS = ("flt", "fltp", "dbl", "dblp")
_MIXED = "s32"  # mixing to integers keeps the loudness of channels that are alike; mixing to floats adds them up


def need(file: BinaryIO, field: str, rate: int, limits: MediaLimits, watch: Watch) -> tuple[int, int]:
    """Memory of the decoded audio and of decoding it, at most, in bytes; ApiError if it is no audio."""
    with opened(file, "audio", field) as container:
        size = sound_bytes(container, rate, limits, watch)
    return size, size  # the whole, made of as many pieces


def sound_bytes(container: Any, rate: int, limits: MediaLimits, watch: Watch) -> int:
    """Memory of the container's sound at most, in bytes. Where it doesn't say how long it is, its packets tell."""
    seconds = declared_seconds(container)
    if seconds is None and container.streams.audio:
        seconds = told_by_packets(container, container.streams.audio[0], watch)
    most = limits.audio_seconds if seconds is None else min(2 * seconds + 10, limits.audio_seconds)
    return int(most * rate) * BYTES_PER_SAMPLE


def decode_audio(file: BinaryIO, field: str, rate: int, limits: MediaLimits, watch: Watch) -> Audio:
    """The first sound track, mixed to one channel at `rate` Hz; a file that is cut off gives what is there.

    ApiError `undecodable_audio`, or `media_too_large` past `audio_seconds`.
    """
    with opened(file, "audio", field) as container:
        if not container.streams.audio:
            raise undecodable("audio", field, "it has no sound track")
        samples = sound(container, container.streams.audio[0], field, "the audio", rate, limits, watch)
    if not len(samples):
        raise undecodable("audio", field, "it holds no sound")
    return Audio(samples, rate)


def sound(container: Any, stream: Any, field: str, what: str, rate: int, limits: MediaLimits, watch: Watch) -> Samples:
    """The samples of one stream, [samples] in -1…1; empty if nothing of it decodes."""
    most = int(limits.audio_seconds * rate)
    pieces: list[Samples] = []
    total = 0
    for piece in _resampled(container, stream, rate, field, watch):
        total += len(piece)
        if total > most:
            declared = declared_seconds(container)
            raise too_long(
                field, what, limits.audio_seconds, declared if declared and declared > limits.audio_seconds else None
            )
        pieces.append(piece)
    return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)


def _resampled(container: Any, stream: Any, rate: int, field: str, watch: Watch) -> Iterator[Samples]:
    stream.codec_context.thread_count = 1
    layout = None
    resampler: Any = None
    for frame in decoded_frames(container, stream, watch):
        if frame.format.name in _FLOATS and not np.isfinite(frame.to_ndarray()).all():
            kind = "video" if container.streams.video else "audio"
            raise undecodable(kind, field, "its sound holds samples that are no numbers (NaN or infinite)")
        actual = (frame.format.name, frame.layout.name, frame.sample_rate)
        if actual != layout:  # at first, and where a stream changes on its way
            if resampler is not None:
                yield from _values(resampler.resample(None))
            resampler, layout = av.AudioResampler(format=_MIXED, layout="mono", rate=rate), actual
        frame.pts = None
        yield from _values(resampler.resample(frame))
    if resampler is not None:
        yield from _values(resampler.resample(None))


def _values(frames: list[Any]) -> Iterator[Samples]:
    for frame in frames:
        yield frame.to_ndarray().reshape(-1).astype(np.float32) * np.float32(2.0**-31)


def declared_seconds(container: Any) -> float | None:
    """How long the file says it is."""
    return container.duration / _MICROSECONDS if container.duration and container.duration > 0 else None


def told_by_packets(container: Any, stream: Any, watch: Watch) -> float | None:
    """How long a stream is by the times of its packets, in seconds; None where they have none. Nothing is decoded."""
    first: int | None = None
    last = 0
    for number, packet in enumerate(packets(container, stream)):
        if number % _PACKETS_A_CHECK == 0:
            watch.check()
        if packet.pts is not None:
            first = packet.pts if first is None else min(first, packet.pts)
            last = max(last, packet.pts + (packet.duration or 0))
    return None if first is None or not stream.time_base else float((last - first) * stream.time_base)
