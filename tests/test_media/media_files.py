"""Real media files, made on the spot."""

import io
import math
import os
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import PIL.Image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
TONE_HZ = 440


def picture(width: int = 32, height: int = 24, mode: str = "RGB") -> PIL.Image.Image:
    """The left half red, the right half blue."""
    image = PIL.Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image.convert(mode)


def saved(image: PIL.Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_of_size(width: int, height: int, rows: int = 0) -> bytes:
    """A grey PNG that says it is this large and holds so many black rows of it, which pack to next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 + width)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def document(
    content: bytes,
    *,
    pages: int = 1,
    box: tuple[int, int, int, int] = (0, 0, 200, 200),
    forms: Sequence[bytes] = (),
    encrypted: bool = False,
) -> bytes:
    """A PDF whose pages all have this content, which may draw /X0, /X1 … by `Do`, and write with /F1."""
    size = b"[%d %d %d %d]" % box
    first_form = 5 + pages
    names = b" ".join(b"/X%d %d 0 R" % (number, first_form + number) for number in range(len(forms)))
    resources = b"<< /Font << /F1 3 0 R >> /XObject << " + names + b" >> >>"
    kids = b" ".join(b"%d 0 R" % (5 + page) for page in range(pages))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count %d /Kids [%s] >>" % (pages, kids),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content),
    ]
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox %s /Resources %s /Contents 4 0 R >>" % (size, resources)
    objects += [page] * pages
    head = b"<< /Type /XObject /Subtype /Form /BBox [0 0 500 500] /Resources %s /Length %d >>\nstream\n%s\nendstream"
    objects += [head % (resources, len(form), form) for form in forms]
    made, places = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    lock = b""
    if encrypted:
        key = b"<" + b"00" * 32 + b">"
        lock = b"/ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /O %s /U %s /P -4 >>" % (key, key)
    start, count = len(made), len(objects) + 1
    made += b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, table)
    return made + b"trailer << /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (count, lock, start)


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """A sine of 440 Hz and half of full scale, [channels, samples] in 16 bits; the same on all channels."""
    wave = 0.5 * np.sin(2 * math.pi * TONE_HZ * np.arange(int(seconds * rate)) / rate)
    return np.repeat((wave * 32767).astype(np.int16)[None], channels, axis=0)


class _Pipe(io.RawIOBase):
    """Takes what is written and can't go back."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += bytes(data)
        return len(data)


def piped(format: str, codec: str, seconds: float) -> bytes:
    """An audio file as a pipe or a browser's recorder gets it: its head doesn't say how long it is."""
    pipe = _Pipe()
    options = {"live": "1"} if format == "webm" else {}
    with av.open(pipe, "w", format=format, container_options=options) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        _encode_sound(container, stream, tone(seconds, 48_000), 48_000)
    return bytes(pipe.data)


_LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}


def sound(
    format: str, codec: str, seconds: float = 1.0, rate: int = 16_000, channels: int = 1, **options: str
) -> bytes:
    """An audio file with a tone."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout=_LAYOUTS[channels], options=options)
        if codec == "wmav2":
            stream.bit_rate = 96_000
        _encode_sound(container, stream, tone(seconds, rate, channels), rate)
    return file.getvalue()


def video(
    format: str = "mp4",
    codec: str = "libx264",
    *,
    frames: int = 40,
    rate: int = 10,
    size: tuple[int, int] = (64, 48),
    sound_codec: str | None = None,
    times: Sequence[int] | None = None,
    rotation: int = 0,
    options: dict[str, str] | None = None,
) -> bytes:
    """A video whose frame i is grey of 4·i+40 with a red left quarter. `times` are in milliseconds."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.width, stream.height = size
        if codec in ("mpeg4", "mjpeg"):
            stream.bit_rate = 8_000_000  # its default is too poor to tell one grey from the next
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        track = container.add_stream(sound_codec, rate=48_000, layout="stereo") if sound_codec else None
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, size), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if track is not None:
            _encode_sound(container, track, tone(frames / rate, 48_000, 2), 48_000)
    if codec == "libsvtav1":
        _be_ordinary()
    data = file.getvalue()
    return displayed(data, *_turned(rotation)) if rotation else data


def _be_ordinary() -> None:
    """SVT-AV1 makes its caller a real-time process where that is root, and all that it starts would be one too."""
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def numbered(index: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    array = np.full((size[1], size[0], 3), min(255, 4 * index + 40), np.uint8)
    array[:, : size[0] // 4] = RED
    return array


def number_of(frame: np.ndarray) -> int:
    """Which frame of `video` this is, by the grey of its right half."""
    height, width, _ = frame.shape
    return round((float(frame[height // 4 : -height // 4, width // 2 : -2].mean()) - 40) / 4)


def _encode_sound(container: Any, stream: Any, samples: np.ndarray, rate: int) -> None:
    resampler = av.AudioResampler(
        format=stream.codec_context.format.name, layout=stream.codec_context.layout.name, rate=stream.codec_context.rate
    )
    size = stream.codec_context.frame_size or 1024
    fifo = av.AudioFifo()
    packed = np.ascontiguousarray(samples.T.reshape(1, -1))
    whole = av.AudioFrame.from_ndarray(packed, format="s16", layout=_LAYOUTS[len(samples)])
    whole.sample_rate = rate
    for frame in [*resampler.resample(whole), *resampler.resample(None)]:
        frame.pts = None
        fifo.write(frame)
    while (piece := fifo.read(size, partial=True)) is not None:
        container.mux(stream.encode(piece))
    container.mux(stream.encode())


def _turned(degrees: int) -> tuple[int, int, int, int]:
    cos, sin = round(math.cos(math.radians(degrees))), round(math.sin(math.radians(degrees)))
    return cos, sin, -sin, cos


def displayed(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The display matrix of the (first) track replaced, as phones and editors write it: x' = ax + cy, y' = bx + dy."""
    at = mp4.index(b"tkhd") + 4 + 40
    assert struct.unpack(">i", mp4[at : at + 4])[0] == 1 << 16, "no identity matrix where it should be"
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    return mp4[:at] + struct.pack(">9i", *matrix) + mp4[at + 36 :]
