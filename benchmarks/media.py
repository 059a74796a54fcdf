"""How fast media are decoded: images, audio and video to arrays, one thread, as the model pod does it.

python benchmarks/media.py [--seconds 2] [--json benchmarks/results/media.json]
"""

import argparse
import base64
import io
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import numpy as np
import PIL.Image
from ams_pod.media.audio import decode_audio
from ams_pod.media.base64text import decoded_base64
from ams_pod.media.frames import FrameOptions
from ams_pod.media.images import decode_image
from ams_pod.media.limits import MediaLimits
from ams_pod.media.video import decode_video
from ams_pod.media.watch import Watch
from test_media.media_files import saved, sound, video

LIMITS = MediaLimits()
RATE = 16_000


def photo(width: int, height: int) -> PIL.Image.Image:
    """Smooth colours with some noise: compresses like a photograph."""
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
    smooth = PIL.Image.fromarray(small).resize((width, height), PIL.Image.Resampling.BICUBIC)
    noise = random.integers(-6, 7, (height, width, 3))
    return PIL.Image.fromarray(np.clip(np.asarray(smooth, np.int16) + noise, 0, 255).astype(np.uint8))


def watch() -> Watch:
    made = Watch(600.0)
    made.item("item")
    return made


def measure(work: Callable[[], Any], seconds: float) -> float:
    """Median seconds of one call."""
    work()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def cases() -> dict[str, tuple[bytes, Callable[[bytes], Any], float, str]]:
    """By name: the file, how it is decoded, how many units one file has, and the unit."""

    def image(data: bytes) -> Any:
        return decode_image(io.BytesIO(data), "image", LIMITS, watch())

    def heard(data: bytes) -> Any:
        return decode_audio(io.BytesIO(data), "audio", RATE, LIMITS, watch())

    def seen(data: bytes) -> Any:
        return decode_video(io.BytesIO(data), "video", FrameOptions(8), LIMITS, watch())

    def seen_and_heard(data: bytes) -> Any:
        return decode_video(io.BytesIO(data), "video", FrameOptions(8, RATE), LIMITS, watch())

    found: dict[str, tuple[bytes, Callable[[bytes], Any], float, str]] = {}
    for width, height in ((640, 480), (1920, 1080), (4000, 3000)):
        for format in ("JPEG", "PNG", "WEBP"):
            found[f"image {format} {width}×{height}"] = saved(photo(width, height), format), image, 1, "images"
    found["image JPEG 8000×6000, scaled down"] = saved(photo(8000, 6000), "JPEG"), image, 1, "images"
    for format, codec, rate in (("wav", "pcm_s16le", 44_100), ("mp3", "libmp3lame", 44_100), ("flac", "flac", 44_100),
                                ("ipod", "aac", 44_100), ("ogg", "libopus", 48_000)):  # fmt: skip
        data = sound(format, codec, seconds=60.0, rate=rate, channels=2)
        found[f"audio {codec} {rate} Hz stereo, 60 s"] = data, heard, 60, "seconds of audio"
    x264 = {"preset": "ultrafast", "g": "250"}
    for name, frames, size in (("480p", 900, (640, 480)), ("1080p", 300, (1920, 1080))):
        data = video("mp4", "libx264", frames=frames, rate=30, size=size, options=x264)
        found[f"video H.264 {name}, {frames // 30} s"] = data, seen, 1, "videos"
    data = video("mp4", "libx264", frames=9000, rate=5, size=(320, 240), options=x264, sound_codec=None)
    found["video H.264 240p, 30 min"] = data, seen, 1, "videos"
    data = video("mp4", "libx264", frames=900, rate=30, size=(640, 480), options=x264, sound_codec="aac")
    found["video H.264 480p with sound, 30 s"] = data, seen_and_heard, 1, "videos"
    return found


def base64_rate(seconds: float) -> float:
    """Bytes decoded a second."""
    text = base64.encodebytes(os.urandom(16 << 20)).decode()
    return (16 << 20) / measure(lambda: sum(map(len, decoded_base64(text, "image"))), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each row")
    parser.add_argument("--json", default="", help="file for the figures")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    print("| | file | one takes | throughput of one thread |\n|---|---|---|---|")
    for name, (data, decode, units, unit) in cases().items():
        seconds = measure(partial(decode, data), arguments.seconds)
        rows.append({"case": name, "bytes": len(data), "seconds": seconds, "per_second": units / seconds, "unit": unit})
        print(f"| {name} | {len(data) / 1e6:.2f} MB | {1000 * seconds:.1f} ms | {units / seconds:,.1f} {unit}/s |")
    rate = base64_rate(arguments.seconds)
    rows.append({"case": "base64", "per_second": rate, "unit": "bytes"})
    print(f"| base64 with line breaks | 16.78 MB | {1000 * (16 << 20) / rate:.1f} ms | {rate / 1e6:,.0f} MB/s |")
    if arguments.json:
        machine = {"machine": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
        Path(arguments.json).write_text(json.dumps(machine | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
