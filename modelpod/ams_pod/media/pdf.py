"""Pages of PDF files as images, drawn by PDFium in a process of its own (`pdf_pages.py`)."""

import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from ams_common.errors import ApiError

from ams_pod.media.items import Image, Pages
from ams_pod.media.limits import MediaLimits, check_shape, undecodable
from ams_pod.media.sizing import SizeRule
from ams_pod.media.watch import Watch

_PROGRAM = Path(__file__).with_name("pdf_pages.py")
_DOTS_PER_INCH = 200  # of a page that isn't too large, as pdf2image draws it
_POINTS_PER_INCH = 72
_PROCESS_BYTES = 768 << 20  # of address space, with the interpreter's; what it takes of memory is less
_WORKING_BYTES = 256 << 20
_BYTES_PER_PIXEL = 3
_LOOK_SECONDS = 0.1
_READ_BYTES = 1 << 20
_LONGEST_ANSWER = 1 << 20


def need(file: BinaryIO, field: str, fit: SizeRule | int, limits: MediaLimits, watch: Watch) -> tuple[int, int, int]:
    """Memory of the drawn pages, and of drawing them, at most, in bytes; and how many they are.

    ApiError `undecodable_image` or `media_too_large`.
    """
    sizes = _sizes(file.read(), field, fit, limits, watch)
    pixels = [height * width for height, width in sizes]
    return sum(pixels) * _BYTES_PER_PIXEL, _WORKING_BYTES + max(pixels) * _BYTES_PER_PIXEL, len(pixels)


def decode_pages(file: BinaryIO, field: str, limits: MediaLimits, watch: Watch, fit: SizeRule | int) -> Pages:
    """All pages on white, each in the size that the model sees. ApiError as above."""
    data = file.read()
    sizes = _sizes(data, field, fit, limits, watch)
    wanted = [[width, height] for height, width in sizes]
    total = sum(height * width for height, width in sizes) * _BYTES_PER_PIXEL
    drawn = _run(data, {"pages": wanted}, total, field, limits, watch)
    images = []
    at = 0
    for height, width in sizes:
        end = at + height * width * _BYTES_PER_PIXEL
        pixels = np.frombuffer(drawn, np.uint8, end - at, at).reshape(height, width, 3)
        images.append(Image(pixels, fitted=isinstance(fit, SizeRule)))
        at = end
    return Pages(tuple(images))


def _sizes(data: bytes, field: str, fit: SizeRule | int, limits: MediaLimits, watch: Watch) -> list[tuple[int, int]]:
    """(height, width) of the image of each page."""
    answer: dict[str, Any] = json.loads(_run(data, {}, None, field, limits, watch))
    if "error" in answer:
        raise undecodable("image", field, answer["error"])
    pages = answer["sizes"]
    if not pages:
        raise undecodable("image", field, "the PDF has no pages")
    if len(pages) > limits.pdf_pages:
        raise ApiError(
            "media_too_large", f"{field}: the PDF has {len(pages):,} pages; at most {limits.pdf_pages} are allowed.",
            param=field, limit=limits.pdf_pages, given=len(pages),
        )  # fmt: skip
    return [_size(width, height, number, field, fit, limits) for number, (width, height) in enumerate(pages, 1)]


def _size(
    width: float, height: float, number: int, field: str, fit: SizeRule | int, limits: MediaLimits
) -> tuple[int, int]:
    """(height, width) in pixels of a page that has this size in points."""
    if not (math.isfinite(width) and math.isfinite(height) and width > 0 and height > 0):
        raise undecodable("image", field, f"page {number} of the PDF has no size")
    most = fit if isinstance(fit, int) else limits.kept_image_pixels
    scale = min(_DOTS_PER_INCH / _POINTS_PER_INCH, math.sqrt(most / (width * height)))
    wide, high = max(1, int(width * scale)), max(1, int(height * scale))
    check_shape(field, wide, high, limits, "image")
    return fit.size(high, wide) if isinstance(fit, SizeRule) else (high, wide)


def _run(
    data: bytes, wanted: dict[str, Any], length: int | None, field: str, limits: MediaLimits, watch: Watch
) -> bytes | bytearray:
    """What the program answers: `length` bytes, or a text where that is None. ApiError when it came to grief."""
    memory = _PROCESS_BYTES + (length or 0)
    order = json.dumps({"cpu_seconds": math.ceil(limits.cpu_seconds), "memory_bytes": memory} | wanted)
    until = time.monotonic() + 3 * limits.cpu_seconds  # others may take the processor
    with subprocess.Popen(
        [sys.executable, "-P", "-B", str(_PROGRAM), order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        close_fds=True,
    ) as process:
        try:
            answer = _exchange(process, data, length, lambda: _look(watch, until))
        except BaseException:
            process.kill()
            raise
    if process.returncode == -signal.SIGXCPU or process.returncode == -signal.SIGKILL:
        raise _took_too_long(field, limits)
    if process.returncode or (length is not None and len(answer) != length):
        raise undecodable("image", field, "the PDF can't be drawn, or not with the memory that is allowed")
    return answer


def _exchange(
    process: "subprocess.Popen[bytes]", data: bytes, length: int | None, look: Callable[[], bool]
) -> bytearray:
    """Write all of the file, then read the answer; `look` is asked now and then whether to go on."""
    assert process.stdin is not None
    assert process.stdout is not None
    into, out = process.stdin.fileno(), process.stdout.fileno()
    os.set_blocking(into, False)
    unsent, answer = memoryview(data), bytearray()
    most = _LONGEST_ANSWER if length is None else length
    while True:
        readable, writable, _ = select.select([out], [into] if unsent else [], [], _LOOK_SECONDS)
        if not look():
            process.kill()
            return answer
        if writable:
            try:
                unsent = unsent[os.write(into, unsent[:_READ_BYTES]) :]
            except BrokenPipeError:  # it has its reasons, and its status tells them
                unsent = unsent[:0]
            if not unsent:
                process.stdin.close()
        if readable:
            piece = os.read(out, _READ_BYTES)
            answer += piece
            if not piece or len(answer) > most:
                return answer


def _look(watch: Watch, until: float) -> bool:
    watch.check()
    return time.monotonic() < until


def _took_too_long(field: str, limits: MediaLimits) -> ApiError:
    return ApiError(
        "media_too_large",
        f"{field}: drawing the PDF took more than {limits.cpu_seconds:g} seconds of processor time; send fewer or "
        "simpler pages.",
        param=field, limit_seconds=limits.cpu_seconds,
    )  # fmt: skip
