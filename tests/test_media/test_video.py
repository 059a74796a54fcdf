"""Video of every format as clients have it: which frames are taken, how they look, when they are shown."""

import io
from fractions import Fraction

import av
import numpy as np
import PIL.Image
import pytest
from ams_common.errors import ApiError
from ams_pod.media.frames import FrameOptions
from ams_pod.media.items import Video
from ams_pod.media.limits import MediaLimits
from ams_pod.media.sizing import NO_WISHES, FrameRule, SizeRule, Wishes
from ams_pod.media.video import decode_video, need
from ams_pod.media.watch import DecodingStopped, Watch
from test_media.media_files import RED, displayed, number_of, numbered, picture, saved, sound, video

RATE = 16_000
EVENLY = [0, 5, 11, 16, 22, 27, 33, 39]  # of 40 frames


def decoded(
    data: bytes,
    frames: int = 8,
    sound_rate: int | None = None,
    limits: MediaLimits | None = None,
    watch: Watch | None = None,
    rule: FrameRule | None = None,
    wishes: Wishes = NO_WISHES,
) -> Video:
    if watch is None:
        watch = Watch(60.0)
        watch.item("video")
    options = FrameOptions(frames, sound_rate, rule, wishes)
    return decode_video(io.BytesIO(data), "video", options, limits or MediaLimits(), watch)


def needed(data: bytes, options: FrameOptions, limits: MediaLimits | None = None) -> tuple[int, int]:
    watch = Watch(60.0)
    watch.item("video")
    return need(io.BytesIO(data), "video", options, limits or MediaLimits(), watch)


def assert_evenly(found: Video) -> None:
    """The frames of a video of 40 frames in 4 seconds; lossy codecs may change a shade by one."""
    assert (found.frames.shape, found.frames.dtype) == ((8, 48, 64, 3), np.uint8)
    assert np.abs(np.array([number_of(frame) for frame in found.frames]) - EVENLY).max() <= 1
    assert found.timestamps == pytest.approx([index / 10 for index in EVENLY], abs=0.11)  # AVI leaves one time out
    assert found.seconds == pytest.approx(4.0, abs=0.11)
    assert np.abs(found.frames[0][24, 4].astype(int) - RED).max() < 20


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("mp4", "libx264"), ("mp4", "mpeg4"), ("mov", "libx264"), ("avi", "mpeg4"), ("avi", "libx264"),
        ("avi", "mjpeg"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("matroska", "libx264"), ("mpegts", "libx264"),
        ("flv", "libx264"),
    ],
)  # fmt: skip
def test_formats(format: str, codec: str) -> None:
    found = decoded(video(format, codec))
    assert_evenly(found)
    assert found.audio is None


@pytest.mark.parametrize(("codec", "options"), [("libx265", {"x265-params": "log-level=none"}), ("libsvtav1", {})])
def test_newer_codecs(codec: str, options: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SVT_LOG", "-1")
    assert_evenly(decoded(video("mp4", codec, options=options)))


@pytest.mark.parametrize("group", [1, 7, 1000])
def test_frames_are_found_whatever_the_groups_of_pictures(group: int) -> None:
    options = {"g": str(group), "sc_threshold": "0", "bf": "3"}
    assert_evenly(decoded(video("mp4", options=options)))
    assert_evenly(decoded(video("matroska", options=options)))


def test_a_long_video_of_which_little_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = video(frames=2000, rate=2, size=(64, 48), options={"g": "10", "preset": "ultrafast"})
    checks = 0
    watch = Watch(60.0)

    def count() -> None:
        nonlocal checks
        checks += 1

    monkeypatch.setattr(watch, "check", count)
    found = decoded(data, watch=watch)
    assert len(found.frames) == 8
    assert found.seconds == 1000
    assert checks < 8 * 30, "packets were decoded that no chosen frame needed"


@pytest.mark.parametrize("format", ["matroska", "mp4"])
def test_a_variable_frame_rate(format: str) -> None:
    """Many frames in the first second and few later: evenly by time, not by number."""
    times = [10 * index for index in range(100)] + [1000 * index for index in range(1, 9)]
    found = decoded(video(format, frames=len(times), times=times), frames=5)
    assert found.timestamps == pytest.approx([0, 2, 4, 6, 8], abs=0.02)
    assert [round(time) for time in found.timestamps] == [0, 2, 4, 6, 8]


def test_a_frame_that_is_shown_for_long_is_taken_once() -> None:
    found = decoded(video("matroska", frames=4, times=[0, 100, 200, 9000]))
    assert found.timestamps == pytest.approx([0, 0.2, 9.0])
    assert [number_of(frame) for frame in found.frames] == [0, 2, 3]


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 16, 40, 256])
def test_number_of_frames(frames: int) -> None:
    data = video(frames=20)
    found = decoded(data, frames=frames)
    assert len(found.frames) == len(found.timestamps) == min(frames, 20)
    assert list(found.timestamps) == sorted(set(found.timestamps))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_very_short_video(frames: int) -> None:
    found = decoded(video(frames=frames))
    assert [number_of(frame) for frame in found.frames] == list(range(frames))


@pytest.mark.parametrize(("degrees", "red"), [(90, "top"), (180, "right"), (270, "bottom")])
def test_a_phone_held_upright(degrees: int, red: str) -> None:
    """The stream lies on its side and says so; red was on the left before the turn."""
    found = decoded(video(rotation=degrees))
    height, width = (64, 48) if degrees % 180 else (48, 64)
    assert found.frames.shape[1:] == (height, width, 3)
    places = {"top": (3, width // 2), "bottom": (-4, width // 2), "right": (height // 2, -4)}
    assert np.abs(found.frames[0][places[red]].astype(int) - RED).max() < 20


@pytest.mark.parametrize(
    ("format", "codec", "sound_codec"),
    [
        ("mp4", "libx264", "aac"),
        ("webm", "libvpx", "libopus"),
        ("avi", "mpeg4", "libmp3lame"),
        ("mov", "libx264", "aac"),
    ],
)
def test_its_sound(format: str, codec: str, sound_codec: str) -> None:
    data = video(format, codec, sound_codec=sound_codec)
    assert decoded(data).audio is None, "a model that doesn't hear gets no sound"
    found = decoded(data, sound_rate=RATE)
    assert_evenly(found)
    assert found.audio is not None
    assert found.audio.rate == RATE
    assert found.audio.seconds == pytest.approx(4.0, abs=0.1)
    assert 0.3 < np.abs(found.audio.samples).max() < 0.7
    assert decoded(video(format, codec), sound_rate=RATE).audio is None, "without a track there is none"


def test_pixels_that_are_not_square() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(3, 2)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert decoded(file.getvalue()).frames.shape[1:3] == (48, 96)


def test_larger_than_models_use_is_scaled_down() -> None:
    found = decoded(video(frames=3, size=(640, 480)), limits=MediaLimits(kept_frame_pixels=10_000))
    height, width = found.frames.shape[1:3]
    assert 9_000 < height * width <= 10_100
    assert abs(width / height - 4 / 3) < 0.03


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"This is a text file that somebody named holiday.mp4.\n" * 40, "no format that is known here"),
        (bytes(1000), "no format that is known here"),
        (saved(picture(), "PNG"), "not supported"),
        (sound("wav", "pcm_s16le"), "it has no pictures"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", ""),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", ""),
        (b"file:///etc/hostname", ""),
    ],
    ids=["empty", "text", "zeros", "image", "sound", "playlist", "concat", "path"],
)
def test_what_is_no_video(data: bytes, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(data)
    error = caught.value
    assert (error.code, error.status, error.param) == ("undecodable_video", 400, "video")
    assert says in error.message
    assert capfd.readouterr().err == ""


def test_cut_off_before_its_index() -> None:
    data = video("mp4")
    with pytest.raises(ApiError) as caught:
        decoded(data[: len(data) // 2])
    assert caught.value.code == "undecodable_video"


@pytest.mark.parametrize("format", ["matroska", "mpegts", "flv"])
def test_cut_off_in_the_middle_gives_what_is_there(format: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = video(format, "libx264", frames=80, options={"g": "10"})
    found = decoded(data[: len(data) // 2])
    assert 4 <= len(found.frames) <= 8
    assert 1 < found.seconds < 7
    assert capfd.readouterr().err == ""


def test_longer_than_is_allowed() -> None:
    with pytest.raises(ApiError) as caught:
        decoded(video(frames=60), limits=MediaLimits(video_seconds=5))
    assert (caught.value.code, caught.value.status) == ("media_too_large", 413)
    assert "the video lasts 6 seconds; at most 5 seconds are allowed" in caught.value.message


def test_sound_longer_than_is_allowed() -> None:
    data = video(frames=60, sound_codec="aac")
    limits = MediaLimits(audio_seconds=3)
    assert decoded(data, limits=limits).audio is None
    with pytest.raises(ApiError, match="the video's sound lasts 6 seconds; at most 3") as caught:
        decoded(data, sound_rate=RATE, limits=limits)
    assert caught.value.code == "media_too_large"


def test_frames_of_more_pixels_than_are_allowed() -> None:
    data, limits = video(frames=2, size=(640, 480)), MediaLimits(frame_pixels=100_000)
    for attempt in (
        lambda: decoded(data, limits=limits),
        lambda: needed(data, FrameOptions(8), limits),
    ):
        with pytest.raises(ApiError, match="a frame of the video has 640 × 480 pixels; at most 100,000") as caught:
            attempt()
        assert caught.value.status == 413


def test_memory_is_told_before_decoding() -> None:
    data = video(sound_codec="aac")
    found = decoded(data, sound_rate=RATE)
    assert found.audio is not None
    assert needed(data, FrameOptions(8, RATE))[0] >= found.frames.nbytes + found.audio.samples.nbytes


@pytest.mark.parametrize(
    ("format", "codec"), [("asf", "wmv2"), ("vob", "mpeg2video"), ("mpegts", "mpeg2video"), ("gif", "gif")]
)
def test_further_containers(format: str, codec: str) -> None:
    """WMV, MPEG program streams as cameras and DVDs have them, GIF."""
    data = gif() if codec == "gif" else video(format, codec, rate=25)
    found = decoded(data, frames=4)
    assert len(found.frames) == 4
    assert found.seconds == pytest.approx(4.0 if codec == "gif" else 1.6, abs=0.2)
    numbers = [number_of(frame) for frame in found.frames]
    assert numbers == sorted(numbers)
    assert numbers[0] <= 3
    assert numbers[-1] >= 36


def gif() -> bytes:
    frames = [PIL.Image.fromarray(numbered(index)) for index in range(40)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100)


def test_a_gif_is_a_video_on_white() -> None:
    images = [PIL.Image.new("RGBA", (64, 48), (255, 0, 0, 0)) for _ in range(3)]
    for at, image in enumerate(images):
        image.paste((0, 0, 255, 255), (8 * at, 0, 8 * at + 8, 48))
    found = decoded(saved(images[0], "GIF", save_all=True, append_images=images[1:], duration=200, disposal=2))
    assert len(found.frames) == 3
    assert found.frames[0][20, 40].tolist() == [255, 255, 255]
    assert found.frames[0][20, 4].tolist() == [0, 0, 255]
    assert len(decoded(saved(picture(), "GIF")).frames) == 1


QWEN = FrameRule(SizeRule(28, 128 * 28 * 28, 768 * 28 * 28))


@pytest.mark.parametrize(
    ("size", "frame"), [((64, 48), (280, 392)), ((1280, 720), (560, 1008)), ((176, 144), (308, 364))]
)
def test_frames_are_scaled_once_by_the_models_rule(size: tuple[int, int], frame: tuple[int, int]) -> None:
    data = video(frames=4, size=size)
    found = decoded(data, rule=QWEN)
    assert found.fitted
    assert found.frames.shape[1:3] == frame
    assert found.frames.nbytes <= needed(data, FrameOptions(8, rule=QWEN))[0]


@pytest.mark.parametrize(
    ("wishes", "frames"),
    [
        (Wishes(frames=2), 2),
        (Wishes(frames=33), 33),
        (Wishes(frames_per_second=2.0), 8),
        (Wishes(frames_per_second=0.1), 4),
        (Wishes(frames_per_second=5.0), 20),
        (Wishes(frames_per_second=1e9), 40),
    ],
)
def test_frames_as_a_client_wants_them(wishes: Wishes, frames: int) -> None:
    """Of 40 frames in 4 seconds."""
    data = video()
    found = decoded(data, wishes=wishes)
    assert len(found.frames) == frames
    assert found.frames.nbytes <= needed(data, FrameOptions(8, wishes=wishes))[0]


def test_pixels_of_frames_as_a_client_wants_them() -> None:
    data = video(frames=4, size=(640, 480))
    found = decoded(data, rule=QWEN, wishes=Wishes(min_pixels=28 * 28, max_pixels=100 * 28 * 28))
    height, width = found.frames.shape[1:3]
    assert height % 28 == width % 28 == 0
    assert 80 * 28 * 28 < height * width <= 100 * 28 * 28
    with pytest.raises(ApiError, match="min_pixels is 9,000,000, above 602,112") as caught:
        decoded(data, rule=QWEN, wishes=Wishes(min_pixels=9_000_000))
    assert caught.value.code == "invalid_parameter"


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda p: p),
        ((-1, 0, 0, 1), lambda p: p[:, ::-1]),
        ((1, 0, 0, -1), lambda p: p[::-1]),
        ((-1, 0, 0, -1), lambda p: p[::-1, ::-1]),
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
        ((0, -1, -1, 0), lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
    ],
)
def test_pictures_are_turned_and_mirrored_as_ffmpeg_shows_them(matrix, upright) -> None:
    """All eight ways; ffmpeg's autorotate gave the same pixels for the same files."""
    plain = video(frames=2, codec="mpeg4")
    corner = decoded(plain).frames[0].copy()
    shown = decoded(displayed(plain, *matrix)).frames[0]
    assert shown.shape == upright(corner).shape
    assert np.abs(shown.astype(int) - upright(corner).astype(int)).max() == 0


def test_of_several_pictures_the_largest_is_taken() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream, (width, height) in zip(streams, ((64, 48), (320, 240)), strict=True):
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for stream in streams:
            array = np.zeros((stream.height, stream.width, 3), np.uint8)
            for _ in range(3):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
            container.mux(stream.encode())
    streams_default = decoded(file.getvalue()).frames.shape[1:3]
    assert streams_default in ((48, 64), (240, 320))
    with av.open(io.BytesIO(file.getvalue())) as container:
        flags = [bool(s.disposition & av.stream.Disposition.default) for s in container.streams.video]
    assert streams_default == ((240, 320) if flags in ([False, False], [True, True]) else (48, 64))


def test_nobody_waits_any_more(watch: Watch) -> None:
    watch.cancel()
    with pytest.raises(DecodingStopped):
        decoded(video(), watch=watch)


def test_random_bytes_after_a_valid_head(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(3)
    codes: set[str] = set()
    for format, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx"), ("matroska", "libx264")):
        data = video(format, codec, sound_codec="libopus" if format == "webm" else "aac")
        for _ in range(15):
            broken = bytearray(data)
            for at in random.integers(0, len(data), 8):
                broken[at] = random.integers(0, 256)
            try:
                decoded(bytes(broken), sound_rate=RATE)
            except ApiError as error:
                codes.add(error.code)
    assert codes <= {"undecodable_video", "media_too_large", "invalid_parameter"}
    assert capfd.readouterr().err == ""


def test_the_largest_video_that_is_allowed_has_room() -> None:
    """A long one in 5K with sound must not need more memory than all requests together may take."""
    limits = MediaLimits()
    data = video(frames=2, size=(5120, 2880), codec="mpeg4", sound_codec="aac")
    kept, working = needed(data, FrameOptions(8, RATE, QWEN))
    longest = int(limits.audio_seconds * RATE) * 4
    assert kept + working + longest <= limits.decoded_bytes
