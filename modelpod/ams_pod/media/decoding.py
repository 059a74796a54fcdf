"""One uploaded item to arrays, in a thread of the media pool. PyAV and Pillow are imported with the first item."""

from dataclasses import dataclass
from typing import Literal

from ams_pod.media.items import Media
from ams_pod.media.limits import MediaLimits
from ams_pod.media.spool import Upload
from ams_pod.media.watch import Watch

Kind = Literal["image", "audio", "video"]


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What the model takes: frames of a video, and sound at a rate; `sound` is whether it hears videos."""

    frames: int
    rate: int
    sound: bool

    @property
    def sound_rate(self) -> int | None:
        return self.rate if self.sound else None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An item as it was sent in `field` of the request."""

    kind: Kind
    field: str
    upload: Upload


def peak_bytes(item: Encoded, options: DecodeOptions, limits: MediaLimits) -> int:
    """Memory that decoding it takes at most; ApiError when its header says that it is broken or too large."""
    with item.upload.open() as file:
        match item.kind:
            case "image":
                from ams_pod.media import images

                return images.peak_bytes(file, item.field, limits)
            case "audio":
                from ams_pod.media import audio

                return audio.peak_bytes(file, item.field, options.rate, limits)
            case "video":
                from ams_pod.media import video

                return video.peak_bytes(file, item.field, options.frames, options.sound_rate, limits)


def decode(item: Encoded, options: DecodeOptions, limits: MediaLimits, watch: Watch) -> Media:
    """ApiError when it can't be decoded, DecodingStopped when `watch` says that nobody waits any more."""
    watch.item(item.field)
    watch.check()
    with item.upload.open() as file:
        match item.kind:
            case "image":
                from ams_pod.media import images

                return images.decode_image(file, item.field, limits, watch)
            case "audio":
                from ams_pod.media import audio

                return audio.decode_audio(file, item.field, options.rate, limits, watch)
            case "video":
                from ams_pod.media import video

                return video.decode_video(file, item.field, options.frames, options.sound_rate, limits, watch)


def preload_codecs() -> None:
    """Import the decoders, so that the first request needn't wait for that."""
    from ams_pod.media import audio, images, video  # noqa: F401


def decoded_bytes(item: Media) -> int:
    """Memory that a decoded item holds."""
    from ams_pod.media.items import Audio, Image, Video

    match item:
        case Image():
            return item.pixels.nbytes
        case Audio():
            return item.samples.nbytes
        case Video():
            return item.frames.nbytes + (item.audio.samples.nbytes if item.audio else 0)
