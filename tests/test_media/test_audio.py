"""Audio of every format as clients have it, mixed to one channel at the model's rate."""

import io
import struct

import numpy as np
import pytest
from ams_common.errors import ApiError
from ams_pod.media.audio import decode_audio, need
from ams_pod.media.items import Audio
from ams_pod.media.limits import MediaLimits
from ams_pod.media.watch import DecodingStopped, Watch
from test_media.media_files import TONE_HZ, picture, piped, saved, sound, video

RATE = 16_000


def decoded(data: bytes, limits: MediaLimits | None = None, rate: int = RATE, watch: Watch | None = None) -> Audio:
    if watch is None:
        watch = Watch(60.0)
        watch.item("audio")
    return decode_audio(io.BytesIO(data), "audio", rate, limits or MediaLimits(), watch)


def assert_tone(audio: Audio, seconds: float, rate: int = RATE, hz: float = TONE_HZ) -> None:
    assert (audio.rate, audio.samples.dtype, audio.samples.ndim) == (rate, np.float32, 1)
    assert abs(audio.seconds - seconds) < 0.1
    middle = audio.samples[len(audio.samples) // 4 : -len(audio.samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(spectrum.argmax() * rate / len(middle) - hz) < 3
    assert 0.3 < np.abs(middle).max() < 0.65


@pytest.mark.parametrize(
    ("format", "codec"),
    [
        ("wav", "pcm_s16le"), ("wav", "pcm_s24le"), ("wav", "pcm_u8"), ("wav", "pcm_f32le"), ("wav", "pcm_alaw"),
        ("w64", "pcm_s16le"), ("aiff", "pcm_s16be"), ("caf", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"),
        ("ipod", "aac"), ("mp4", "aac"), ("ipod", "alac"), ("adts", "aac"), ("matroska", "aac"),
        ("mov", "pcm_s16be"), ("avi", "pcm_s16le"), ("mpegts", "aac"), ("asf", "wmav2"), ("au", "pcm_s16be"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("channels", [1, 2])
def test_formats(format: str, codec: str, channels: int) -> None:
    assert_tone(decoded(sound(format, codec, rate=44_100, channels=channels)), 1.0)


@pytest.mark.parametrize("format", ["ogg", "webm", "matroska"])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_opus(format: str, channels: int) -> None:
    assert_tone(decoded(sound(format, "libopus", rate=48_000, channels=channels)), 1.0)


def test_vorbis() -> None:
    assert_tone(decoded(sound("ogg", "vorbis", rate=44_100, channels=2, strict="-2")), 1.0)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(rate: int, channels: int) -> None:
    data = sound("wav", "pcm_s16le", rate=rate, channels=channels)
    assert_tone(decoded(data), 1.0)
    assert_tone(decoded(data, rate=24_000), 1.0, rate=24_000)


def test_the_sound_of_a_video() -> None:
    assert_tone(decoded(video("mp4", sound_codec="aac")), 4.0)


def test_as_loud_in_stereo_as_in_mono() -> None:
    mono, stereo = (decoded(sound("wav", "pcm_s16le", channels=channels)).samples for channels in (1, 2))
    assert np.abs(mono - stereo).max() < 1e-3


def test_nothing_is_changed_that_needs_no_change() -> None:
    data = sound("wav", "pcm_s16le", rate=RATE)
    given = np.frombuffer(data[-2 * RATE :], "<i2") / 32768
    assert np.abs(decoded(data).samples - given).max() < 1e-6


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"hello, this is no audio at all", "no format that is known here"),
        (bytes(1000), "no format that is known here"),
        (saved(picture(), "PNG"), "not supported"),
        (video("mp4"), "it has no sound track"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", ""),
        (b"ffconcat version 1.0\nfile /etc/hostname\n", ""),
    ],
    ids=["empty", "text", "zeros", "image", "silent video", "playlist", "concat"],
)
def test_what_is_no_audio(data: bytes, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(data)
    error = caught.value
    assert (error.code, error.status, error.param) == ("undecodable_audio", 400, "audio")
    assert says in error.message
    assert capfd.readouterr().err == ""


def test_a_wav_without_samples() -> None:
    empty = b"RIFF" + struct.pack("<I", 36) + b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, 16000, 32000, 2, 16)
    with pytest.raises(ApiError) as caught:
        decoded(empty + b"data" + bytes(4))
    assert caught.value.code == "undecodable_audio"


@pytest.mark.parametrize(("format", "codec"), [("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac")])
def test_a_file_that_is_cut_off_gives_what_is_there(format: str, codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = sound(format, codec, seconds=4.0)
    audio = decoded(data[: len(data) // 2])
    assert 1.0 < audio.seconds < 3.0
    assert_tone(audio, audio.seconds)
    assert capfd.readouterr().err == ""


def test_a_file_that_is_cut_off_before_its_index() -> None:
    data = sound("ipod", "aac", seconds=2.0)
    with pytest.raises(ApiError) as caught:
        decoded(data[: len(data) // 2])
    assert caught.value.code == "undecodable_audio"


def test_longer_than_is_allowed() -> None:
    limits = MediaLimits(audio_seconds=3)
    assert decoded(sound("wav", "pcm_s16le", seconds=2.9), limits).seconds == pytest.approx(2.9, abs=0.05)
    for data in (sound("wav", "pcm_s16le", seconds=5.0), sound("flac", "flac", seconds=5.0)):
        with pytest.raises(ApiError) as caught:
            decoded(data, limits)
        assert (caught.value.code, caught.value.status) == ("media_too_large", 413)
        assert "lasts 5 seconds; at most 3 seconds are allowed" in caught.value.message


def test_memory_is_told_before_decoding() -> None:
    data = sound("mp3", "libmp3lame", seconds=5.0)
    audio = decoded(data)
    assert audio.samples.nbytes <= needed(data) < 2 << 20


@pytest.mark.parametrize(("format", "codec"), [("webm", "libopus"), ("flac", "flac"), ("wav", "pcm_s16le")])
def test_memory_of_what_tells_no_length(format: str, codec: str) -> None:
    """Browsers and pipes write files whose length nobody knew at their beginning."""
    data = piped(format, codec, seconds=7.0)
    audio = decoded(data)
    assert audio.seconds == pytest.approx(7.0, abs=0.1)
    assert audio.samples.nbytes <= needed(data) < 8 << 20


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_samples_that_are_no_numbers(value: float) -> None:
    values = np.zeros(RATE, np.float32)
    values[100:200] = value
    for kept in (values, np.full(RATE, value, np.float32)):
        data = kept.tobytes()
        head = b"RIFF" + struct.pack("<I", 36 + len(data)) + b"WAVEfmt "
        head += struct.pack("<IHHIIHH", 16, 3, 1, RATE, RATE * 4, 4, 32)
        with pytest.raises(ApiError, match="holds samples that are no numbers") as caught:
            decoded(head + b"data" + struct.pack("<I", len(data)) + data)
        assert caught.value.code == "undecodable_audio"


def needed(data: bytes) -> int:
    watch = Watch(60.0)
    watch.item("audio")
    kept, working = need(io.BytesIO(data), "audio", RATE, MediaLimits(), watch)
    assert working >= kept
    return kept


def test_nobody_waits_any_more(watch: Watch) -> None:
    watch.cancel()
    with pytest.raises(DecodingStopped):
        decoded(sound("wav", "pcm_s16le"), watch=watch)


def test_more_processor_time_than_is_allowed() -> None:
    watch = Watch(0.0)
    watch.item("audio[1]")
    with pytest.raises(ApiError, match=r"audio\[1\]: decoding took more than 0 seconds of processor time") as caught:
        decoded(sound("flac", "flac", seconds=20.0), watch=watch)
    assert caught.value.code == "media_too_large"


def test_random_bytes_after_a_valid_head(capfd: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(2)
    codes: set[str] = set()
    for format, codec in (("wav", "pcm_s16le"), ("mp3", "libmp3lame"), ("flac", "flac"), ("ipod", "aac")):
        data = sound(format, codec, seconds=0.5)
        for _ in range(25):
            broken = bytearray(data)
            for at in random.integers(0, len(data), 8):
                broken[at] = random.integers(0, 256)
            try:
                decoded(bytes(broken))
            except ApiError as error:
                codes.add(error.code)
    assert codes <= {"undecodable_audio", "media_too_large"}
    assert capfd.readouterr().err == ""
