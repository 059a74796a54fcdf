"""Images by Pillow: their size is checked before they are decoded, and again after."""

import io
import warnings
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pi_heif
import PIL.ExifTags
import PIL.Image
import PIL.ImageChops
from ams_common.errors import ApiError

from ams_pod.media.items import Image
from ams_pod.media.limits import MediaLimits, check_pixels, check_shape, undecodable
from ams_pod.media.sizing import SizeRule
from ams_pod.media.watch import Watch

# No format that runs a program (EPS), draws what it likes (WMF), or holds an image of another size inside (ICO).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM", "TGA")
TAKEN = "PNG, JPEG, WebP, GIF, BMP, TIFF, HEIC or PDF"
PIL.Image.init()
pi_heif.options.DECODE_THREADS = 1  # the item's processor time is that of its thread
pi_heif.register_heif_opener(thumbnails=False)
PIL.Image.MAX_IMAGE_PIXELS = 1 << 30  # below it our own check tells the numbers
warnings.filterwarnings("ignore", module=r"PIL\.")  # clients' odd metadata are no news for the log
_WORKING_BYTES_PER_PIXEL = 12  # four channels as decoded, a copy with transparency, one in RGB
_END_OF_IMAGE = b"\xff\xd9"
_MORE_DATA = b"\x5a\xa5" * 64
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


def need(file: BinaryIO, field: str, fit: SizeRule | int, limits: MediaLimits) -> tuple[int, int]:
    """Memory of the decoded image and of decoding it, at most, in bytes; ApiError if it is none, or too large a one."""
    with _opened(file, field, limits) as image:
        height, width = _fitted_size(image, fit)
        return height * width * 3, image.width * image.height * _WORKING_BYTES_PER_PIXEL


def decode_image(
    file: BinaryIO, field: str, limits: MediaLimits, watch: Watch, fit: SizeRule | int | None = None
) -> Image:
    """The image upright in RGB, transparent parts over white, of an animation the first frame.

    It is scaled once: by the rule `fit`, or to at most so many pixels. ApiError `undecodable_image` or
    `media_too_large`.
    """
    fit = limits.kept_image_pixels if fit is None else fit
    with _opened(file, field, limits) as opened:
        watch.check()
        try:
            image = _loaded(opened, file)
        except Exception as error:  # Pillow's decoders raise whatever a crafted file makes them stumble over
            raise undecodable("image", field, _reason(error)) from None
        watch.check()
        check_pixels(field, image.width, image.height, limits.image_pixels, "the image")
        turn = _turn(image)
        height, width = _fitted_size(image, fit)
        plain = _rgb(image)
        if plain.size != (width, height):
            plain = plain.resize((width, height), PIL.Image.Resampling.BICUBIC)
        upright = plain.transpose(turn) if turn is not None else plain
        return Image(np.array(upright), fitted=isinstance(fit, SizeRule))


def _opened(file: BinaryIO, field: str, limits: MediaLimits) -> PIL.Image.Image:
    """The image by its header alone."""
    head = file.read(1024)
    file.seek(0)
    if not head:
        raise undecodable("image", field, "it is empty")
    if (named := _unsupported(head)) is not None:
        raise undecodable("image", field, f"{named} is not supported; send {TAKEN}")
    try:
        image = PIL.Image.open(file, formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise undecodable("image", field, f"it is in no image format that is known here; send {TAKEN}") from None
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise _bomb(field, limits) from None
    except Exception as error:
        raise undecodable("image", field, _reason(error)) from None
    check_shape(field, image.width, image.height, limits, "image")
    check_pixels(field, image.width, image.height, limits.image_pixels, "the image")
    return image


def _loaded(image: PIL.Image.Image, file: BinaryIO) -> PIL.Image.Image:
    """The image with its pixels. A JPEG that lacks nothing but its end marker, as cameras send them, is whole."""
    try:
        image.load()
        return image
    except OSError as error:
        if image.format != "JPEG" or "truncated" not in str(error):
            raise
        file.seek(0)
        data = file.read().removesuffix(_END_OF_IMAGE[:1])
        whole, other = (_with_end(data, more) for more in (b"", _MORE_DATA))
        if PIL.ImageChops.difference(whole, other).getbbox() is not None:
            raise  # what stands behind its data is seen in it, so that something of it lacks
        return whole


def _with_end(jpeg: bytes, more: bytes) -> PIL.Image.Image:
    made = PIL.Image.open(io.BytesIO(jpeg + more + _END_OF_IMAGE), formats=("JPEG",))
    made.load()
    return made


def _turn(image: PIL.Image.Image) -> PIL.Image.Transpose | None:
    """What puts it upright; nothing where its metadata are broken, as all viewers do."""
    try:
        return _TURNS.get(image.getexif().get(PIL.ExifTags.Base.Orientation, 1))
    except Exception:  # each format's parser of metadata raises errors of its own
        return None


def is_pdf(file: BinaryIO) -> bool:
    """Whether it says that it is one; some have a mark or white space in front."""
    head = file.read(1024)
    file.seek(0)
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"%PDF-")


def _unsupported(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in start:
        return "SVG"
    return "PostScript" if head.startswith(b"%!PS") else None


def _bomb(field: str, limits: MediaLimits) -> ApiError:
    return ApiError(
        "media_too_large", f"{field}: the image has far more than the {limits.image_pixels:,} pixels that are allowed.",
        param=field, limit=limits.image_pixels,
    )  # fmt: skip


def _fitted_size(image: PIL.Image.Image, fit: SizeRule | int) -> tuple[int, int]:
    """(height, width), as it lies in the file: rules treat both sides alike."""
    if isinstance(fit, SizeRule):
        return fit.size(image.height, image.width)
    scale = min(1.0, (fit / (image.width * image.height)) ** 0.5)
    return max(1, int(image.height * scale)), max(1, int(image.width * scale))


def _plain(image: PIL.Image.Image) -> PIL.Image.Image:
    """As RGB, or RGBA where parts are transparent."""
    if image.mode == "RGBA":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:  # RGB too: one of its colours may stand for nothing
        return image.convert("RGBA")
    return image if image.mode == "RGB" else image.convert("RGB")


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
