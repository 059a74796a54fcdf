"""Media of requests: parts of messages, and how a client wants them to be seen and heard."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Pixels = Annotated[int, Meta(ge=1, le=1 << 30)]
Frames = Annotated[int, Meta(ge=1, le=256)]
FramesPerSecond = Annotated[float, Meta(gt=0, le=1000)]

_MIN_PIXELS = "Fewest pixels that the model is to see; smaller pictures are scaled up."
_MAX_PIXELS = "Most pixels that the model is to see; it can't raise the model's own limit."
_FPS = "Frames taken of each second: an even number in all, at least 4 and at most 256."
_FRAMES = "Frames taken of the video, evenly spaced."


class PixelBounds(msgspec.Struct, frozen=True, kw_only=True):
    """How large a picture is that the model sees."""

    min_pixels: Annotated[Pixels | None, Meta(description=_MIN_PIXELS)] = None
    max_pixels: Annotated[Pixels | None, Meta(description=_MAX_PIXELS)] = None


class TextPart(msgspec.Struct, frozen=True, tag="text"):
    """A text of a message."""

    text: Annotated[str, Meta(description="The text.")]


class Url(msgspec.Struct, frozen=True):
    """Where media are."""

    url: Annotated[str, Meta(description="A data URI, or an https URL if the model's process allows its host.")]


class ImageUrl(PixelBounds, frozen=True, kw_only=True):
    """Where an image is, and how closely it is looked at."""

    url: Annotated[str, Meta(description="A data URI, or an https URL if the model's process allows its host.")]
    detail: Annotated[
        Literal["auto", "low", "high", "original"] | None,
        Meta(description="`low` scales the image down to 512 × 512 pixels; the others keep what the model takes."),
    ] = None


class ImagePart(PixelBounds, frozen=True, kw_only=True, tag="image_url"):
    """An image of a message."""

    image_url: Annotated[ImageUrl, Meta(description="The image.")]


class VideoPart(PixelBounds, frozen=True, kw_only=True, tag="video_url"):
    """A video of a message."""

    video_url: Annotated[Url, Meta(description="The video.")]
    fps: Annotated[FramesPerSecond | None, Meta(description=_FPS)] = None
    nframes: Annotated[Frames | None, Meta(description=_FRAMES)] = None


class InputAudio(msgspec.Struct, frozen=True):
    """Audio in base64."""

    data: Annotated[str, Meta(description="Base64 of the file.")]
    format: Annotated[str | None, Meta(description="Ignored: the format is detected from the content.")] = None


class AudioPart(msgspec.Struct, frozen=True, tag="input_audio"):
    """Audio of a message."""

    input_audio: Annotated[InputAudio, Meta(description="The audio.")]


class AudioUrlPart(msgspec.Struct, frozen=True, tag="audio_url"):
    """Audio of a message, as vLLM takes it."""

    audio_url: Annotated[Url, Meta(description="The audio.")]


class FileData(msgspec.Struct, frozen=True):
    """A file in base64."""

    file_data: Annotated[str | None, Meta(description="Base64 of a PDF, or a data URI.")] = None
    file_id: Annotated[str | None, Meta(description="Refused: files can't be uploaded beforehand.")] = None
    filename: Annotated[str | None, Meta(description="Ignored: the content tells what it is.")] = None


class FilePart(PixelBounds, frozen=True, kw_only=True, tag="file"):
    """A PDF of a message: its pages are images."""

    file: Annotated[FileData, Meta(description="The file.")]


ContentPart = TextPart | ImagePart | VideoPart | AudioPart | AudioUrlPart | FilePart


class PixelSize(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of pixels, as transformers' processors name them."""

    shortest_edge: Annotated[Pixels | None, Meta(description=f"The same as min_pixels. {_MIN_PIXELS}")] = None
    longest_edge: Annotated[Pixels | None, Meta(description=f"The same as max_pixels. {_MAX_PIXELS}")] = None


class ProcessorKwargs(PixelBounds, frozen=True, kw_only=True):
    """vLLM's `mm_processor_kwargs`: for all media of the request that say nothing themselves."""

    size: Annotated[PixelSize | None, Meta(description="Another way to bound pixels.")] = None
    fps: Annotated[FramesPerSecond | None, Meta(description=_FPS)] = None
    num_frames: Annotated[Frames | None, Meta(description=_FRAMES)] = None
    use_audio_in_video: Annotated[
        bool | None, Meta(description="`false` leaves the sound of videos out, for models that hear it.")
    ] = None


class VideoIoKwargs(msgspec.Struct, frozen=True, kw_only=True):
    """How videos are read."""

    num_frames: Annotated[Frames | None, Meta(description=_FRAMES)] = None
    fps: Annotated[FramesPerSecond | None, Meta(description=_FPS)] = None


class MediaIoKwargs(msgspec.Struct, frozen=True, kw_only=True):
    """vLLM's `media_io_kwargs`."""

    video: Annotated[VideoIoKwargs | None, Meta(description="How videos are read.")] = None


# Fields of requests with media.
MmProcessorKwargs = Annotated[
    ProcessorKwargs | None,
    Meta(description="How media are seen and heard, where a part of a message doesn't say it itself."),
]
MmIoKwargs = Annotated[MediaIoKwargs | None, Meta(description="How videos are read.")]
