"""How a client wants its media to be seen and heard, out of the several places where clients say so."""

from collections.abc import Sequence

from ams_common.errors import ApiError
from ams_common.wire import ChatRequest, GenerateRequest, ImagePart, VideoPart

from ams_pod.engines.port import Capabilities
from ams_pod.media.intake import MediaSource
from ams_pod.media.sizing import LOW_DETAIL_PIXELS, Wishes


def wishes_of(fields: ChatRequest | GenerateRequest) -> Wishes:
    """Of all media of a request. ApiError `invalid_parameter` where two of its fields exclude each other."""
    processor, reading = fields.mm_processor_kwargs, fields.media_io_kwargs
    wishes = Wishes()
    if reading is not None and reading.video is not None:
        wishes = Wishes(frames=reading.video.num_frames, frames_per_second=reading.video.fps)
        _check_frames(wishes, "media_io_kwargs.video", "num_frames")
    if processor is None:
        return wishes
    size = processor.size
    own = Wishes(
        min_pixels=processor.min_pixels if processor.min_pixels or size is None else size.shortest_edge,
        max_pixels=processor.max_pixels if processor.max_pixels or size is None else size.longest_edge,
        frames=processor.num_frames,
        frames_per_second=processor.fps,
        sound=processor.use_audio_in_video,
    )
    _check_frames(own, "mm_processor_kwargs", "num_frames")
    check_pixels(own, "mm_processor_kwargs")
    return own.over(wishes)


def image_wishes(part: ImagePart, field: str) -> Wishes:
    """What an image's own part says. ApiError as above."""
    url = part.image_url
    own = Wishes(url.min_pixels or part.min_pixels, url.max_pixels or part.max_pixels)
    check_pixels(own, field)
    return own if url.detail != "low" else Wishes(max_pixels=LOW_DETAIL_PIXELS).over(own)


def video_wishes(part: VideoPart, field: str) -> Wishes:
    """What a video's own part says. ApiError as above."""
    own = Wishes(part.min_pixels, part.max_pixels, part.nframes, part.fps)
    _check_frames(own, field, "nframes")
    check_pixels(own, field)
    return own


def unheard(sources: Sequence[MediaSource], capabilities: Capabilities) -> list[str]:
    """Wishes that this model can't fulfil, for the header that names what is ignored."""
    names = set()
    for source in sources:
        if source.kind == "video" and source.wishes.sound and "audio" not in capabilities.modalities:
            names.add("use_audio_in_video")
        rule = capabilities.sizes.image if source.kind == "image" else capabilities.sizes.video
        if source.kind != "audio" and rule is None and source.wishes.min_pixels is not None:
            names.add("min_pixels")
    return sorted(names)


def _check_frames(wishes: Wishes, field: str, name: str) -> None:
    if wishes.frames is not None and wishes.frames_per_second is not None:
        raise ApiError("invalid_parameter", f"{field}: {name} and fps exclude each other.", param=field)


def check_pixels(wishes: Wishes, field: str) -> None:
    """ApiError `invalid_parameter` for a lower bound above the upper one."""
    least, most = wishes.min_pixels, wishes.max_pixels
    if least is not None and most is not None and least > most:
        raise ApiError(
            "invalid_parameter", f"{field}: min_pixels is {least:,}, above max_pixels, {most:,}.",
            param=field, limit=most, given=least,
        )  # fmt: skip
