"""From a request's texts to arrays: memory that is shared, and clients that leave in the middle."""

import asyncio
import base64
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from ams_common.errors import ApiError
from ams_pod.media import decoding
from ams_pod.media.budget import ByteBudget
from ams_pod.media.decoding import DecodeOptions
from ams_pod.media.intake import Intake, MediaSource
from ams_pod.media.items import Audio, Image, Media, Video
from ams_pod.media.limits import MediaLimits
from ams_pod.media.temp import TempFolder
from ams_pod.media.urls import AllowedHosts
from test_media.media_files import picture, piped, saved, sound, video

WANTED = DecodeOptions(frames=4, rate=16_000, sound=True)
PNG = saved(picture(), "PNG")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def observed() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def intake(tmp_path: Path, observed: list[tuple[str, int]]) -> Iterator[Intake]:
    limits = MediaLimits(request_memory_bytes=2000)
    made = Intake(
        TempFolder(str(tmp_path)), AllowedHosts.parse(""), 1 << 20,
        lambda kind, seconds, size: observed.append((kind, size)), limits,
    )  # fmt: skip
    yield made
    made.close()


async def _media(intake: Intake, *sources: MediaSource) -> list[Media]:
    with intake.spool() as spool:
        received = await intake.receive(sources, spool)
        async with intake.decoded(received, WANTED) as (media, share):
            assert share.bytes == intake.budget.used == sum(map(decoding.decoded_bytes, media))
            return list(media)


async def test_all_kinds_in_order(intake: Intake, observed: list[tuple[str, int]], tmp_path: Path) -> None:
    wav, mp4 = sound("wav", "pcm_s16le"), video(sound_codec="aac")
    media = await _media(
        intake, MediaSource("video", "video", _text(mp4)),
        MediaSource("image", "image", "data:image/png;base64," + _text(PNG)),
        MediaSource("audio", "audio", _text(wav)),
    )  # fmt: skip
    moving, still, heard = media
    assert isinstance(moving, Video)
    assert isinstance(still, Image)
    assert isinstance(heard, Audio)
    assert len(moving.frames) == 4
    assert moving.audio is not None
    assert observed == [("video", len(mp4)), ("image", len(PNG)), ("audio", len(wav))]
    assert intake.budget.used == 0
    assert os.listdir(tmp_path) == []


async def test_what_is_wrong_names_its_field(intake: Intake, tmp_path: Path) -> None:
    good = MediaSource("image", "image[0]", _text(PNG))
    for text, code in [
        ("AAAA", "undecodable_image"),
        ("A*", "invalid_base64"),
        ("https://example.com/a", "invalid_parameter"),
    ]:
        with pytest.raises(ApiError) as caught:
            await _media(intake, good, MediaSource("image", "image[1]", text))
        assert (caught.value.code, caught.value.param) == (code, "image[1]")
    assert intake.budget.used == 0
    assert os.listdir(tmp_path) == []


async def test_more_items_than_are_allowed(intake: Intake) -> None:
    with pytest.raises(ApiError, match="The request holds 65 media; at most 64 are allowed"):
        await _media(intake, *[MediaSource("image", "image", _text(PNG))] * 65)


async def test_more_memory_than_there_is(tmp_path: Path) -> None:
    intake = Intake(
        TempFolder(str(tmp_path)), AllowedHosts.parse(""), 0, lambda *_: None, MediaLimits(decoded_bytes=5000)
    )
    with pytest.raises(ApiError, match="need 11,520 bytes of memory to decode; at most 5,000 are allowed") as caught:
        await _media(intake, MediaSource("image", "image", _text(PNG)))
    assert (caught.value.code, caught.value.status) == ("media_too_large", 413)
    intake.close()


async def test_as_many_photos_as_a_request_may_hold(tmp_path: Path) -> None:
    """They are decoded one after the other, and all of them keep half of the memory: none is refused."""
    limits = MediaLimits(decoded_bytes=3 << 20)
    intake = Intake(TempFolder(str(tmp_path)), AllowedHosts.parse(""), 0, lambda *_: None, limits)
    photo = _text(saved(picture(400, 300), "JPEG"))
    media = await _media(intake, *[MediaSource("image", "image", photo)] * limits.items)
    assert len(media) == 64
    assert sum(item.pixels.nbytes for item in media) <= limits.decoded_bytes // 2
    assert min(item.pixels.nbytes for item in media) > limits.decoded_bytes // 2 // 64 * 0.95
    intake.close()


async def test_recordings_that_tell_no_length(intake: Intake) -> None:
    """A voice chat sends all that was said before: each takes what it is, not what it might be."""
    clip, film = _text(piped("webm", "libopus", 2.0)), _text(video("webm", "libvpx", sound_codec="libopus"))
    media = await _media(
        intake, *[MediaSource("audio", "audio", clip)] * 40, *[MediaSource("video", "video", film)] * 5
    )
    assert len(media) == 45


async def test_a_recording_that_is_longer_than_it_says(tmp_path: Path) -> None:
    """It takes more memory where there is room, and is to be sent again where there is none."""
    clip = bytearray(piped("flac", "flac", 40.0))
    at = clip.index(b"fLaC") + 4 + 4 + 10
    samples = int.from_bytes(clip[at + 3 : at + 8], "big")
    clip[at + 3 : at + 8] = (samples & ~((1 << 36) - 1) | 48_000).to_bytes(5, "big")  # it says: one second
    source = MediaSource("audio", "audio", _text(bytes(clip)))
    for room, fails in ((8 << 20, False), (2 << 20, True)):
        limits = MediaLimits(decoded_bytes=room)
        intake = Intake(TempFolder(str(tmp_path)), AllowedHosts.parse(""), 0, lambda *_: None, limits)
        if fails:
            with pytest.raises(ApiError, match="not enough memory") as caught:
                await _media(intake, source)
            assert (caught.value.code, caught.value.status) == ("insufficient_memory", 503)
        else:
            assert (await _media(intake, source))[0].seconds == pytest.approx(40, abs=0.2)
        assert intake.budget.used == 0
        intake.close()


async def test_a_client_that_leaves_while_its_media_are_decoded(
    intake: Intake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding stops at its next look, and only then the upload goes."""
    begun, stopped = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def endless(item, wanted, limits, watch) -> Media:
        watch.item(item.field)
        loop.call_soon_threadsafe(begun.set)
        try:
            while True:
                watch.check()
                assert item.upload.open().read(10)
        finally:
            stopped.set()

    monkeypatch.setattr(decoding, "decode", endless)
    request = asyncio.create_task(_media(intake, MediaSource("video", "video", _text(video()))))
    await begun.wait()
    assert len(os.listdir(tmp_path)) == 1
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert stopped.is_set()
    assert intake.budget.used == 0
    assert os.listdir(tmp_path) == []


async def test_memory_is_waited_for_in_order() -> None:
    budget = ByteBudget(100)
    order: list[str] = []
    go = {name: asyncio.Event() for name in "abcd"}

    async def take(name: str, size: int) -> None:
        async with budget.reserved(size) as share:
            order.append(name)
            await go[name].wait()
            share.shrink(10)
            share.shrink(50)
            assert share.bytes == 10

    tasks = {name: asyncio.create_task(take(name, size)) for name, size in (("a", 60), ("b", 50), ("c", 10), ("d", 40))}
    await asyncio.sleep(0)
    assert (order, budget.used) == (["a"], 60), "c would fit, but b came first"
    tasks["b"].cancel()
    await asyncio.gather(tasks["b"], return_exceptions=True)
    await asyncio.sleep(0)
    assert (order, budget.used) == (["a", "c"], 70)
    go["a"].set()
    await tasks["a"]
    await asyncio.sleep(0)
    assert (order, budget.used) == (["a", "c", "d"], 50)
    for name in "cd":
        go[name].set()
        await tasks[name]
    assert budget.used == 0


async def test_a_turn_that_comes_with_the_cancellation_is_given_back() -> None:
    budget = ByteBudget(10)
    async with budget.reserved(10):
        waiting = asyncio.create_task(budget.reserved(10).__aenter__())
        await asyncio.sleep(0)
        later = asyncio.create_task(budget.reserved(5).__aenter__())
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    share = await later
    assert (share.bytes, budget.used) == (5, 5)
