"""One uploaded item to arrays, in a thread of the media pool. PyAV and Pillow are imported with the first item."""

from dataclasses import dataclass
from typing import Literal

from ams_pod.media.frames import FrameOptions
from ams_pod.media.items import Audio, Decoded, Image, Pages, Video
from ams_pod.media.limits import MediaLimits, as_wished, undecodable
from ams_pod.media.sizing import NO_RULES, NO_WISHES, SizeRule, Sizes, Wishes
from ams_pod.media.spool import Upload
from ams_pod.media.watch import Watch

Kind = Literal["image", "audio", "video"]


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What the model takes: frames of a video, sound at a rate, pictures by its rules of sizes.

    `sound` is whether it hears videos; `image_pixels` bounds images of a model without a rule.
    """

    frames: int
    rate: int
    sound: bool
    sizes: Sizes = NO_RULES
    image_pixels: int | None = None

    def sound_rate(self, wishes: Wishes) -> int | None:
        return self.rate if self.sound and wishes.sound is not False else None


@dataclass(frozen=True, slots=True)
class Encoded:
    """An item as it was sent in `field` of the request."""

    kind: Kind
    field: str
    upload: Upload
    wishes: Wishes = NO_WISHES
    document: bool = False  # only a PDF is taken
    frames: tuple[Upload, ...] = ()  # of a video that was sent as images; `upload` is the first of them


@dataclass(frozen=True, slots=True)
class Need:
    """Memory of an item in bytes: what it holds when it is decoded, and what decoding it takes beside that.

    `items` is how many media it becomes.
    """

    kept: int
    working: int
    items: int = 1


def need(item: Encoded, options: DecodeOptions, limits: MediaLimits, watch: Watch) -> Need:
    """What decoding it takes at most; ApiError when its header says that it is broken or too large."""
    watch.item(item.field)
    watch.check()
    with item.upload.open() as file:
        match item.kind:
            case "image":
                from ams_pod.media import images

                if images.is_pdf(file):
                    from ams_pod.media import pdf

                    return Need(*pdf.need(file, item.field, fit_of(item, options, limits), limits, watch))
                if item.document:
                    raise undecodable("image", item.field, "it is no PDF, and of files only those are taken")
                kept, working = images.need(file, item.field, fit_of(item, options, limits), limits)
            case "audio":
                from ams_pod.media import audio

                kept, working = audio.need(file, item.field, options.rate, limits, watch)
            case "video" if item.frames:
                from ams_pod.media import still_frames

                kept, working = still_frames.need(item.frames, item.field, _frame_options(item, options), limits)
            case "video":
                from ams_pod.media import video

                kept, working = video.need(file, item.field, _frame_options(item, options), limits, watch)
    return Need(kept, working)


def decode(item: Encoded, options: DecodeOptions, limits: MediaLimits, watch: Watch) -> Decoded:
    """ApiError when it can't be decoded, DecodingStopped when `watch` says that nobody waits any more."""
    watch.item(item.field)
    watch.check()
    with item.upload.open() as file:
        match item.kind:
            case "image":
                from ams_pod.media import images

                if images.is_pdf(file):
                    from ams_pod.media import pdf

                    return pdf.decode_pages(file, item.field, limits, watch, fit_of(item, options, limits))
                return images.decode_image(file, item.field, limits, watch, fit_of(item, options, limits))
            case "audio":
                from ams_pod.media import audio

                return audio.decode_audio(file, item.field, options.rate, limits, watch)
            case "video" if item.frames:
                from ams_pod.media import still_frames

                wanted = _frame_options(item, options)
                return still_frames.decode_frames(item.frames, item.field, wanted, limits, watch)
            case "video":
                from ams_pod.media import video

                return video.decode_video(file, item.field, _frame_options(item, options), limits, watch)


def fit_of(item: Encoded, options: DecodeOptions, limits: MediaLimits) -> SizeRule | int:
    """The rule of an image's size, or the most pixels that are kept of it where the model has no rule."""
    if (rule := options.sizes.image) is not None:
        return as_wished(rule.within(options.image_pixels or rule.max_pixels), item.wishes, item.field)
    return min(filter(None, (limits.kept_image_pixels, options.image_pixels, item.wishes.max_pixels)))


def _frame_options(item: Encoded, options: DecodeOptions) -> FrameOptions:
    return FrameOptions(options.frames, options.sound_rate(item.wishes), options.sizes.video, item.wishes)


def preload_codecs() -> None:
    """Import the decoders, so that the first request needn't wait for that."""
    from ams_pod.media import audio, images, video  # noqa: F401


def decoded_bytes(item: Decoded) -> int:
    """Memory that a decoded item holds."""
    match item:
        case Image():
            return item.pixels.nbytes
        case Pages():
            return sum(map(decoded_bytes, item.images))
        case Audio():
            return item.samples.nbytes
        case Video():
            return item.frames.nbytes + (item.audio.samples.nbytes if item.audio else 0)
