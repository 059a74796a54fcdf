"""Pages of PDFs as images."""

import contextlib
import io
import subprocess
import threading
import time
from typing import Any

import numpy as np
import PIL.Image
import pytest
from ams_common.errors import ApiError
from ams_pod.media import decoding, pdf
from ams_pod.media.decoding import DecodeOptions, Encoded
from ams_pod.media.items import Pages
from ams_pod.media.limits import MediaLimits
from ams_pod.media.sizing import SizeRule, Sizes
from ams_pod.media.spool import Upload
from ams_pod.media.watch import DecodingStopped, Watch
from test_media.media_files import BLUE, RED, document, picture, saved

QWEN = SizeRule(28, 56 * 56, 16384 * 28 * 28)


def _watch(seconds: float = 60.0) -> Watch:
    watch = Watch(seconds)
    watch.item("file")
    return watch


def pages(
    data: bytes, fit: SizeRule | int = QWEN, limits: MediaLimits | None = None, watch: Watch | None = None
) -> Pages:
    return pdf.decode_pages(io.BytesIO(data), "file", limits or MediaLimits(), watch or _watch(), fit)


def refusal(data: bytes, limits: MediaLimits | None = None) -> ApiError:
    with pytest.raises(ApiError) as caught:
        pages(data, limits=limits)
    assert caught.value.param == "file"
    return caught.value


def test_pages_are_drawn_in_their_order() -> None:
    sheets = [PIL.Image.new("RGB", (595, 842), colour) for colour in (RED, BLUE)]
    found = pages(saved(sheets[0], "PDF", save_all=True, append_images=sheets[1:], resolution=72))
    assert [image.pixels.shape for image in found.images] == [(2352, 1652, 3)] * 2  # A4 at 200 dpi, by Qwen's rule
    for image, colour in zip(found.images, (RED, BLUE), strict=True):
        assert np.abs(image.pixels[1000, 800].astype(int) - colour).max() < 5
        assert image.fitted


def test_text_and_white_paper() -> None:
    found = pages(document(b"BT /F1 24 Tf 20 100 Td (Hello) Tj ET"), 10**7).images[0]
    assert found.pixels[0, 0].tolist() == [255, 255, 255]
    assert found.pixels.min() < 60
    assert found.pixels.shape == (555, 555, 3)


def test_memory_is_told_before_drawing() -> None:
    data = saved(picture(300, 200), "PDF", save_all=True, append_images=[picture(400, 100)])
    kept, working, count = pdf.need(io.BytesIO(data), "file", QWEN, MediaLimits(), _watch())
    found = pages(data)
    assert count == len(found.images) == 2
    assert kept == sum(image.pixels.nbytes for image in found.images)
    assert working >= max(image.pixels.nbytes for image in found.images)


def test_what_is_sent_as_an_image_may_be_a_pdf() -> None:
    data = saved(picture(200, 100), "PDF")
    for kind, options in (("image", Sizes(QWEN)), ("image", Sizes())):
        item = Encoded(kind, "image", Upload(len(data), lambda: io.BytesIO(data)))
        wanted = DecodeOptions(8, 16_000, False, options)
        assert decoding.need(item, wanted, MediaLimits(), _watch()).items == 1
        assert isinstance(decoding.decode(item, wanted, MediaLimits(), _watch()), Pages)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"%PDF-1.7\n", "broken, or cut off"),
        (b"%PDF-1.7\n" + bytes(1000), "broken, or cut off"),
        (document(b"", pages=0), "broken"),
        (document(b"", encrypted=True), "encrypted"),
        (document(b"", box=(0, 0, 0, 100)), ""),
    ],
)
def test_what_is_no_pdf(data: bytes, says: str) -> None:
    if says:
        error = refusal(data)
        assert error.code == "undecodable_image"
        assert says in error.message
    else:
        assert len(pages(data).images) == 1  # PDFium takes such a page for a letter


def test_more_pages_than_are_allowed() -> None:
    error = refusal(document(b"", pages=33))
    assert (error.code, error.status) == ("media_too_large", 413)
    assert "the PDF has 33 pages; at most 32 are allowed" in error.message


def test_a_page_of_any_size_is_an_image_within_the_limits() -> None:
    for side in (3, 20_000, 1_000_000):
        image = pages(document(b"", box=(0, 0, side, side)), 500_000).images[0]
        assert image.pixels.shape[0] * image.pixels.shape[1] <= 500_000
    assert refusal(document(b"", box=(0, 0, 20_000, 20))).code == "invalid_parameter"


# A form that draws another one twice, which does the same, and so on: as a whole it takes days and all memory.
BOMB = [b"/X%d Do /X%d Do" % (level + 1, level + 1) for level in range(22)] + [b"0 0 500 500 re f"]


def test_a_page_that_takes_for_ever_or_all_memory_is_stopped() -> None:
    error = refusal(document(b"/X0 Do", forms=BOMB), MediaLimits(cpu_seconds=2))
    assert error.code in ("media_too_large", "undecodable_image")
    assert "took more than 2 seconds" in error.message or "not with the memory that is allowed" in error.message


def test_nobody_waits_any_more() -> None:
    watch = _watch()
    threading.Timer(0.5, watch.cancel).start()
    started = time.monotonic()
    with pytest.raises(DecodingStopped):
        pages(document(b"/X0 Do", forms=BOMB), watch=watch)
    assert time.monotonic() - started < 5
    assert len(pages(saved(picture(), "PDF")).images) == 1


def test_the_program_has_no_environment_and_no_arguments_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    popen = subprocess.Popen

    def noted(*inputs: Any, **options: Any) -> Any:
        seen.append(options)
        return popen(*inputs, **options)

    monkeypatch.setattr(subprocess, "Popen", noted)
    pages(saved(picture(), "PDF"))
    assert len(seen) == 2
    assert all((options["env"], options["close_fds"]) == ({}, True) for options in seen)


def test_random_bytes_within_a_pdf() -> None:
    """Every outcome is pages or a refusal."""
    random = np.random.default_rng(1)
    data = saved(picture(), "PDF", save_all=True, append_images=[picture()])
    for _ in range(25):
        broken = bytearray(data)
        for at in random.integers(0, len(data), 8):
            broken[at] = random.integers(0, 256)
        with contextlib.suppress(ApiError):
            pages(bytes(broken), 100_000)
