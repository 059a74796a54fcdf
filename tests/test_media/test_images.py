"""Images of every format as clients have them, and what broken, huge and foreign files get."""

import io

import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pillow_heif
import pytest
from ams_common.errors import ApiError
from ams_pod.media.images import decode_image, need
from ams_pod.media.limits import MediaLimits
from ams_pod.media.sizing import SizeRule
from ams_pod.media.watch import DecodingStopped, Watch
from test_media.media_files import BLUE, GREEN, RED, WHITE, picture, png_of_size, saved

LOSSY = 12  # of 255, what a lossy format may be off


def decoded(data: bytes, limits: MediaLimits | None = None) -> np.ndarray:
    return decode_image(io.BytesIO(data), "image", limits or MediaLimits(), _watch()).pixels


def _watch() -> Watch:
    watch = Watch(60.0)
    watch.item("image")
    return watch


def refusal(data: bytes, limits: MediaLimits | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        decoded(data, limits)
    return caught.value


def assert_colour(pixel: np.ndarray, colour: tuple[int, int, int], off: int = 0) -> None:
    assert np.abs(pixel.astype(int) - colour).max() <= off, (pixel, colour)


@pytest.mark.parametrize(
    ("format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"quality": 95}),
        ("GIF", "P", {}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("AVIF", "RGB", {"quality": 95}),
        ("JPEG2000", "RGB", {}),
        ("PPM", "RGB", {}),
        ("TGA", "RGB", {}),
    ],
)
def test_formats(format: str, mode: str, options: dict) -> None:
    pixels = decoded(saved(picture(mode=mode), format, **options))
    assert (pixels.shape, pixels.dtype) == ((24, 32, 3), np.uint8)
    assert_colour(pixels[12, 4], RED, LOSSY)
    assert_colour(pixels[12, 27], BLUE, LOSSY)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey(mode: str) -> None:
    pixels = decoded(saved(PIL.Image.new("L", (8, 8), 255).convert(mode), "PNG"))
    assert_colour(pixels[4, 4], WHITE)


def test_grey_of_sixteen_bits_keeps_its_range() -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    pixels = decoded(saved(PIL.Image.fromarray(values), "PNG"))
    assert np.abs(pixels[:, :, 0].astype(int) - values / 257).max() <= 1


def test_floating_point_grey() -> None:
    pixels = decoded(saved(PIL.Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"))
    assert set(pixels.reshape(-1)) == {128}


def test_transparent_parts_are_white() -> None:
    image = PIL.Image.new("RGBA", (8, 8), (*GREEN, 255))
    image.paste((0, 0, 0, 0), (0, 0, 4, 8))
    image.paste((0, 0, 0, 128), (0, 0, 1, 8))
    pixels = decoded(saved(image, "PNG"))
    assert_colour(pixels[4, 2], WHITE)
    assert_colour(pixels[4, 6], GREEN)
    assert_colour(pixels[4, 0], (127, 127, 127), 1)


def test_a_palette_with_a_transparent_colour() -> None:
    image = picture(mode="P")
    data = saved(image, "PNG", transparency=image.getpixel((0, 0)))
    assert_colour(decoded(data)[12, 4], WHITE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_orientation(format: str, orientation: int) -> None:
    """Whatever way the sensor was held, the picture is upright: red on the left."""
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL.Image.Transpose: what the camera's turn amounts to
    turned = picture() if orientation == 1 else picture().transpose(PIL.Image.Transpose(undo[orientation]))
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    pixels = decoded(saved(turned, format, exif=exif, **({"quality": 95} if format == "JPEG" else {})))
    assert pixels.shape == (24, 32, 3)
    assert_colour(pixels[12, 4], RED, 40)
    assert_colour(pixels[12, 27], BLUE, 40)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    rest = [PIL.Image.new("RGB", (32, 24), GREEN)]
    data = saved(picture(), format, save_all=True, append_images=rest, duration=100, **options)
    assert_colour(decoded(data)[12, 4], RED)


@pytest.mark.parametrize("size", [(1, 1), (1, 100), (200, 1)])
def test_tiny_images(size: tuple[int, int]) -> None:
    assert decoded(saved(PIL.Image.new("RGB", size, RED), "PNG")).shape == (size[1], size[0], 3)


def test_too_narrow_for_any_model() -> None:
    error = refusal(saved(PIL.Image.new("RGB", (201, 1)), "PNG"))
    assert (error.code, error.status, error.param) == ("invalid_parameter", 400, "image")
    assert "201 × 1 pixels is too narrow; one side may be at most 200 times the other" in error.message


@pytest.mark.parametrize("rows", [0, 20_000])
def test_more_pixels_than_are_allowed(rows: int) -> None:
    """Refused by what the header says: nothing of the 400 million pixels is unpacked."""
    data = png_of_size(20_000, 20_000, rows)
    assert len(data) < 1 << 20
    error = refusal(data)
    assert (error.code, error.status) == ("media_too_large", 413)
    assert "20,000 × 20,000 pixels; at most 67,108,864" in error.message
    with pytest.raises(ApiError, match="20,000 × 20,000"):
        need(io.BytesIO(data), "image", 1 << 20, MediaLimits())
    assert refusal(saved(PIL.Image.new("L", (20_000, 20_000)), "JPEG")).code == "media_too_large"


def test_absurd_sizes_in_the_header() -> None:
    assert refusal(png_of_size(2**31 - 1, 2**31 - 1)).code == "media_too_large"
    assert refusal(png_of_size(0, 10)).code == "undecodable_image"


def test_larger_than_models_use_is_scaled_down() -> None:
    limits = MediaLimits(kept_image_pixels=10_000)
    for format in ("PNG", "JPEG"):
        pixels = decoded(saved(picture(800, 600), format), limits)
        height, width, _ = pixels.shape
        assert 5_000 < height * width <= 10_000
        assert abs(width / height - 4 / 3) < 0.03
        assert_colour(pixels[height // 2, 4], RED, LOSSY)
        assert_colour(pixels[height // 2, -4], BLUE, LOSSY)


def test_scaled_down_and_upright() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    data = saved(picture(800, 600).transpose(PIL.Image.Transpose.ROTATE_90), "JPEG", exif=exif)
    pixels = decoded(data, MediaLimits(kept_image_pixels=10_000))
    assert pixels.shape[1] > pixels.shape[0]
    assert_colour(pixels[pixels.shape[0] // 2, 4], RED, LOSSY)


def heic(image: PIL.Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, **options)
    return file.getvalue()


def test_photos_of_iphones() -> None:
    """HEIC, whatever its name says, within the limits and whole."""
    data = heic(picture(64, 48), quality=100)
    pixels = decoded(data)
    assert pixels.shape == (48, 64, 3)
    assert_colour(pixels[24, 4], RED, LOSSY)
    assert_colour(pixels[24, -4], BLUE, LOSSY)
    assert refusal(data, MediaLimits(image_pixels=1000)).code == "media_too_large"
    for part in (len(data) // 2, len(data) - 20):
        assert refusal(data[:part]).code == "undecodable_image"


QWEN = SizeRule(28, 56 * 56, 16384 * 28 * 28)


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((1, 1), (56, 56)),
        ((332, 27), (336, 28)),
        ((639, 31), (644, 28)),
        ((1654, 2339), (1652, 2352)),
        ((2480, 3508), (2492, 3500)),
        ((3840, 2160), (3836, 2156)),
        ((4032, 3024), (4032, 3024)),
        ((6000, 4000), (4368, 2912)),
    ],
)
def test_an_image_is_scaled_once_by_the_models_rule(given: tuple[int, int], size: tuple[int, int]) -> None:
    """(width, height): what a client computes with smart_resize of qwen-vl-utils and the checkpoint's pixels."""
    data = saved(PIL.Image.new("RGB", given, RED), "JPEG")
    found = decode_image(io.BytesIO(data), "image", MediaLimits(), _watch(), QWEN)
    assert found.fitted
    assert found.pixels.shape == (size[1], size[0], 3)
    kept, _ = need(io.BytesIO(data), "image", QWEN, MediaLimits())
    assert found.pixels.nbytes == kept


def test_scaling_is_that_of_pillow_on_the_whole_picture() -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (700, 900, 3), np.uint8))
    rule = SizeRule(28, 56 * 56, 300 * 28 * 28)
    height, width = rule.size(700, 900)
    found = decode_image(io.BytesIO(saved(noise, "PNG")), "image", MediaLimits(), _watch(), rule)
    assert np.array_equal(found.pixels, np.asarray(noise.resize((width, height), PIL.Image.Resampling.BICUBIC)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_metadata_that_are_broken_leave_an_image_upright() -> None:
    broken = [bytes(30), b"II*\0\xff\xff\xff\xff", b"MM\0*" + b"\xff" * 40]
    for format in ("PNG", "WEBP", "JPEG", "TIFF", "AVIF"):
        for exif in (*(b"Exif\0\0" + each for each in broken), b"x" * 9):
            try:
                data = saved(picture(), format, exif=exif)
            except SyntaxError:  # this writer reads it itself
                continue
            assert decoded(data).shape == (24, 32, 3)
    raw = PIL.PngImagePlugin.PngInfo()
    raw.add_text("Raw profile type exif", "\nexif\n      9\nnot hexadecimal\n")
    assert decoded(saved(picture(), "PNG", pnginfo=raw)).shape == (24, 32, 3)


def test_a_colour_that_stands_for_nothing_is_white() -> None:
    """tRNS of a PNG without an alpha channel."""
    for mode, colour, seen in (("RGB", RED, WHITE), ("P", 0, None), ("L", 76, WHITE)):
        image = picture(mode=mode)
        pixels = decoded(saved(image, "PNG", transparency=colour))
        if seen is not None:
            assert_colour(pixels[4, 4], seen)
        assert pixels[4, -4].tolist() != list(WHITE)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_only_its_end_marker(progressive: bool) -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (61, 47, 3), np.uint8))
    data = saved(noise, "JPEG", progressive=progressive)
    whole = decoded(data)
    for less in (1, 2):
        assert np.array_equal(decoded(data[:-less]), whole)
    for less in (12, 20, 200, len(data) // 2):
        assert "it is cut off" in refusal(data[:-less]).message


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"\x00" * 100, "no image format that is known"),
        (b"hello, this is no image", "no image format that is known"),
        (b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "no image format that is known here; send PNG, JPEG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG is not supported"),
        (b"  <svg/>", "SVG is not supported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript is not supported"),
    ],
)
def test_what_is_no_image(data: bytes, says: str) -> None:
    error = refusal(data)
    assert (error.code, error.status, error.param) == ("undecodable_image", 400, "image")
    assert error.message.startswith("image: the image can't be decoded: ")
    assert says in error.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000"])
def test_cut_off(format: str) -> None:
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = saved(noise, format)
    for part in (len(data) // 2, len(data) // 8, 30, 4):
        error = refusal(data[:part])
        assert (error.code, error.status) == ("undecodable_image", 400)


def test_random_bytes_after_a_valid_head() -> None:
    """Every outcome is an image or a refusal; nothing else escapes."""
    random = np.random.default_rng(1)
    codes: set[str] = set()
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "TGA", "PPM"):
        data = bytearray(saved(picture(), format))
        for _ in range(40):
            broken = bytearray(data)
            for at in random.integers(0, len(data), 6):
                broken[at] = random.integers(0, 256)
            try:
                decoded(bytes(broken))
            except ApiError as error:
                codes.add(error.code)
    assert codes <= {"undecodable_image", "media_too_large", "invalid_parameter"}


def test_nobody_waits_any_more(limits: MediaLimits, watch: Watch) -> None:
    watch.cancel()
    with pytest.raises(DecodingStopped):
        decode_image(io.BytesIO(saved(picture(), "PNG")), "image", limits, watch)
