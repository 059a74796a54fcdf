"""Images by Pillow: their size is checked before they are decoded, and again after."""

import warnings
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import PIL.ExifTags
import PIL.Image
from ams_common.errors import ApiError

from ams_pod.media.items import Image
from ams_pod.media.limits import MediaLimits, check_pixels, check_shape, undecodable
from ams_pod.media.watch import Watch

# No format that runs a program (EPS), draws what it likes (WMF), or holds an image of another size inside (ICO).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA")
PIL.Image.init()
PIL.Image.MAX_IMAGE_PIXELS = 1 << 30  # below it our own check tells the numbers
warnings.filterwarnings("ignore", module=r"PIL\.")  # clients' odd metadata are no news for the log
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PEAK_BYTES_PER_PIXEL = 8  # four channels as decoded, a copy upright or in RGB beside them
_WHITE = (255, 255, 255)
_TURNS = {  # EXIF's orientation to what undoes it
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


def peak_bytes(file: BinaryIO, field: str, limits: MediaLimits) -> int:
    """Memory that decoding takes at most, in bytes; ApiError if it is no image, or too large a one."""
    with _opened(file, field, limits) as image:
        return image.width * image.height * _PEAK_BYTES_PER_PIXEL


def decode_image(file: BinaryIO, field: str, limits: MediaLimits, watch: Watch) -> Image:
    """The image upright in RGB, transparent parts over white, of an animation the first frame.

    What has more than `kept_image_pixels` is scaled down. ApiError `undecodable_image` or `media_too_large`.
    """
    with _opened(file, field, limits) as image:
        watch.check()
        try:
            image.load()
        except Exception as error:  # Pillow's decoders raise whatever a crafted file makes them stumble over
            raise undecodable("image", field, _reason(error)) from None
        watch.check()
        check_pixels(field, image.width, image.height, limits.image_pixels, "the image")
        turn = _TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
        plain = _rgb(_shrunk(image, limits.kept_image_pixels))
        return Image(np.array(plain.transpose(turn) if turn is not None else plain))


def _opened(file: BinaryIO, field: str, limits: MediaLimits) -> PIL.Image.Image:
    """The image by its header alone, with JPEG set to decode at the scale that is needed."""
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise undecodable("image", field, "it is empty")
    if (named := _unsupported(head)) is not None:
        raise undecodable("image", field, f"{named} is not supported; send PNG, JPEG, WebP, GIF, BMP or TIFF")
    try:
        image = PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise undecodable("image", field, "it is in no image format that is known here") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise _bomb(field, limits) from None
    except Exception as error:
        raise undecodable("image", field, _reason(error)) from None
    check_shape(field, image.width, image.height, limits, "image")
    check_pixels(field, image.width, image.height, limits.image_pixels, "the image")
    width, height = _kept_size(image.width, image.height, limits.kept_image_pixels)
    image.draft(None, (width * 3 // 4, height * 3 // 4))  # a half, quarter or eighth, if it comes near what is kept
    return image


def _unsupported(head: bytes) -> str | None:
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and b"avif" not in head[:64]:
        return "HEIC"
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in start:
        return "SVG"
    if head.startswith(b"%PDF-"):
        return "PDF"
    return "PostScript" if head.startswith(b"%!PS") else None


def _bomb(field: str, limits: MediaLimits) -> ApiError:
    return ApiError(
        "media_too_large", f"{field}: the image has far more than the {limits.image_pixels:,} pixels that are allowed.",
        param=field, limit=limits.image_pixels,
    )  # fmt: skip


def _kept_size(width: int, height: int, pixels: int) -> tuple[int, int]:
    scale = min(1.0, (pixels / (width * height)) ** 0.5)
    return max(1, int(width * scale)), max(1, int(height * scale))


def _shrunk(image: PIL.Image.Image, pixels: int) -> PIL.Image.Image:
    if image.width * image.height <= pixels:
        return image
    return _plain(image).resize(_kept_size(image.width, image.height, pixels), PIL.Image.Resampling.BICUBIC)


def _plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """In a mode that scales well: RGB, or RGBA where parts are transparent."""
    if image.mode in ("RGB", "RGBA"):
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    return image.convert("RGB")


def _rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    plain = _plain(image)
    if plain.mode == "RGB":
        return plain
    under = PIL.Image.new("RGB", plain.size, _WHITE)
    under.paste(plain, mask=plain.getchannel("A"))
    return under


def _eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    """Grey of 16 bits, or of floating point numbers, as grey of 8: converting it would cut it off at 255."""
    values: npt.NDArray[np.float32] = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    if image.mode != "F":
        values /= 257
    elif values.max(initial=0.0) <= 1.0:
        values *= 255
    return PIL.Image.fromarray(np.clip(values, 0, 255).round().astype(np.uint8))


def _reason(error: Exception) -> str:
    text = str(error).strip().rstrip(".").partition("\n")[0]
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"it is cut off ({text})" if text else "it is cut off"
    return text[:200] or type(error).__name__
