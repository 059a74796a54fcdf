"""How large media may be, and the sentences that say so."""

from dataclasses import dataclass, replace
from typing import Any

from ams_common.errors import ApiError

from ams_pod.media.sizing import MAX_FRAMES, SizeRule, Wishes

_UNDECODABLE = {"image": "undecodable_image", "audio": "undecodable_audio", "video": "undecodable_video"}


@dataclass(frozen=True, slots=True)
class MediaLimits:
    """Bounds of one item, and of all of a pod together.

    `kept_*` is what is handed on to a model that has no rule of its own for sizes: more is scaled down.
    """

    items: int = 64  # in one request
    image_pixels: int = 64 << 20
    kept_image_pixels: int = 16384 * 28 * 28
    pdf_pages: int = 32
    aspect_ratio: int = 200  # Qwen's processors refuse what is narrower
    audio_seconds: float = 30 * 60
    video_seconds: float = 60 * 60
    frame_pixels: int = 16 << 20
    kept_frame_pixels: int = 1 << 20
    kept_video_pixels: int = 64 << 20
    cpu_seconds: float = 60.0  # of decoding one item
    request_memory_bytes: int = 4 << 20  # encoded media of one request; the rest lies in a file
    decoded_bytes: int = 1 << 30  # of all requests together
    fetch_seconds: float = 30.0


def check_pixels(field: str, width: int, height: int, limit: int, what: str) -> None:
    """ApiError `media_too_large` when an image or frame of this size has more pixels than `limit`."""
    if width * height > limit:
        raise ApiError(
            "media_too_large",
            f"{field}: {what} has {width:,} × {height:,} pixels; at most {limit:,} pixels are allowed.",
            param=field, limit=limit, given=width * height, width=width, height=height,
        )  # fmt: skip


def check_shape(field: str, width: int, height: int, limits: MediaLimits, kind: str) -> None:
    """ApiError when an image or frame has no pixels, or is too narrow for any model."""
    if width < 1 or height < 1:
        raise undecodable(kind, field, "it has no pixels")
    if max(width, height) > limits.aspect_ratio * min(width, height):
        raise ApiError(
            "invalid_parameter",
            f"{field}: {width:,} × {height:,} pixels is too narrow; one side may be at most {limits.aspect_ratio} "
            "times the other.",
            param=field, limit=limits.aspect_ratio, width=width, height=height,
        )  # fmt: skip


def check_frames(field: str, frames: int) -> None:
    """ApiError `media_too_large` for more frames than a request may have of one video."""
    if frames > MAX_FRAMES:
        raise ApiError(
            "media_too_large", f"{field}: the video has {frames:,} frames; at most {MAX_FRAMES} are allowed.",
            param=field, limit=MAX_FRAMES, given=frames,
        )  # fmt: skip


def as_wished(rule: SizeRule, wishes: Wishes, field: str) -> SizeRule:
    """The rule as a client wants it: an upper bound can only lower the model's. ApiError for a lower one above it."""
    most = min(rule.max_pixels, wishes.max_pixels or rule.max_pixels)
    least = wishes.min_pixels if wishes.min_pixels is not None else min(rule.min_pixels, most)
    if least > most:
        limit = "max_pixels" if most < rule.max_pixels else "the most that this model takes (limits.imagePixels)"
        raise ApiError(
            "invalid_parameter", f"{field}: min_pixels is {least:,}, above {most:,}, {limit}.",
            param="min_pixels", limit=most, given=least,
        )  # fmt: skip
    return replace(rule, min_pixels=least, max_pixels=most)


def too_long(field: str, what: str, limit: float, given: float | None) -> ApiError:
    """`given` is None where nobody knows how long it is, only that it is longer."""
    length = "is longer" if given is None else f"lasts {given:,.0f} seconds"
    details: dict[str, Any] = {} if given is None else {"given_seconds": round(given, 1)}
    return ApiError(
        "media_too_large", f"{field}: {what} {length}; at most {limit:,.0f} seconds are allowed.",
        param=field, limit_seconds=limit, **details,
    )  # fmt: skip


def undecodable(kind: str, field: str, reason: str) -> ApiError:
    """The error for media that are no valid `kind`: `reason` is a part of a sentence."""
    return ApiError(_UNDECODABLE[kind], f"{field}: the {kind} can't be decoded: {reason}.", param=field)


def too_many_bytes(field: str, limit: int) -> ApiError:
    return ApiError(
        "media_too_large", f"{field}: it has more than the {limit:,} bytes that are allowed.",
        param=field, limit_bytes=limit,
    )  # fmt: skip
