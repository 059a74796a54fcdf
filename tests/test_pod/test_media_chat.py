"""Chats with media for engines that make prompts themselves: what goes to them is what was decoded, and no more."""

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.dialects.sglang import SGLang
from ams_pod.engines.openai.dialects.vllm import Vllm
from ams_pod.engines.openai.media_chat import media_chat
from ams_pod.engines.port import ChatOptions, EngineRefusal
from ams_pod.engines.prompts.control_tokens import ControlTokens
from ams_pod.media.items import Audio, Image, Video, content_part
from fakehub import checkpoints
from other_engine_harness import Opened, beside
from PIL import Image as Picture
from tokenizers import Tokenizer

pytestmark = pytest.mark.family("vision-language")
RANDOM = np.random.default_rng(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("qwen2_5_vl", tmp_path_factory.mktemp("model") / "vl")


def pixels(*shape: int) -> Any:
    return RANDOM.integers(0, 256, (*shape, 3), np.uint8)


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [part if isinstance(part, dict) else content_part(part) for part in parts]}]


IMAGE = Image(pixels(8, 12))


def decoded(url: str, kind: str) -> list[Any]:
    head, _, data = url.partition(",")
    assert head == f"data:{kind};base64"
    return [np.asarray(Picture.open(io.BytesIO(base64.b64decode(each)))) for each in data.split(",")]


def test_a_picture_arrives_as_it_was_decoded() -> None:
    [message] = media_chat(user(text("what"), IMAGE), ChatOptions()).messages
    words, shown = message["content"]
    assert words == text("what")
    [found] = decoded(shown["image_url"]["url"], "image/png")
    assert (found == IMAGE.pixels).all()


def test_sglang_gets_recordings_by_a_name_that_all_its_versions_know() -> None:
    given = media_chat(
        [*user(Audio(np.zeros(4, np.float32), 16_000), IMAGE), {"role": "user", "content": "x"}], ChatOptions()
    )
    [first, second] = SGLang().messages(given.messages)
    sound, shown = first["content"]
    assert (
        sound["audio_url"]["url"] == "data:audio/wav;base64," + given.messages[0]["content"][0]["input_audio"]["data"]
    )
    assert sound["type"] == "audio_url"
    assert shown == given.messages[0]["content"][1]
    assert second == given.messages[1]


async def test_videos_are_no_part_of_what_sglang_takes(folder: Path) -> None:
    async with beside(folder, "sglang") as one:
        assert one.engine.capabilities.modalities == ("image", "text")
        with pytest.raises(EngineRefusal, match="video"):
            one.engine.prepare_chat(user(Video(pixels(2, 8, 8), (0.0, 1.0), 2.0)))


def test_sound_arrives_in_16_bits() -> None:
    samples = np.linspace(-1, 1, 1600, dtype=np.float32)
    [message] = media_chat(user(Audio(samples, 16_000)), ChatOptions()).messages
    sent = message["content"][0]["input_audio"]
    assert sent["format"] == "wav"
    with wave.open(io.BytesIO(base64.b64decode(sent["data"]))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16_000, 1, 1600)
        found = np.frombuffer(file.readframes(1600), "<i2") / 32767
    assert np.abs(found - samples).max() < 1e-4


def test_a_video_arrives_frame_by_frame_with_its_rate_and_its_sound_behind() -> None:
    video = Video(pixels(3, 8, 12), (0.0, 0.5, 1.0), 1.5, Audio(np.zeros(160, np.float32), 16_000))
    chat = media_chat(user(video), ChatOptions())
    shown, heard = chat.messages[0]["content"]
    frames = decoded(shown["video_url"]["url"], "video/jpeg")
    assert all((one == other).all() for one, other in zip(frames, video.frames, strict=True))
    assert heard["type"] == "input_audio"
    assert chat.frame_rate == 2.0
    slow = Video(pixels(2, 8, 12), (0.0, 1.0), 2.0)
    assert media_chat(user(video, slow), ChatOptions()).frame_rate == 1.5
    assert media_chat(user(IMAGE), ChatOptions()).frame_rate is None


@pytest.mark.parametrize(
    ("times", "seconds", "rate"), [((0.0, 2.0, 4.0), 6.0, 0.5), ((0.0,), 4.0, 0.25), ((0.0,), 0.0, 1.0)]
)
def test_the_rate_of_the_frames_that_were_taken(times: tuple[float, ...], seconds: float, rate: float) -> None:
    assert Video(pixels(len(times), 2, 2), times, seconds).frame_rate == rate


async def asked(one: Opened, messages: list[dict[str, Any]], options: ChatOptions = ChatOptions()) -> dict[str, Any]:  # noqa: B008
    await one.wait(one.submit(one.engine.prepare_chat(messages, options), 3))
    assert one.fake is not None
    return one.fake.asked[-1]


async def test_vllm_is_told_how_fast_frames_follow_each_other(folder: Path) -> None:
    async with beside(folder) as one:
        body = await asked(one, user(Video(pixels(3, 8, 12), (0.0, 0.25, 0.5), 0.75), text("what")))
        assert body["path"] == "/v1/chat/completions"
        assert body["media_io_kwargs"] == {"video": {"num_frames": -1, "fps": 4.0}}
        assert body["mm_processor_kwargs"] == {"fps": 4.0}
        assert "media_io_kwargs" not in await asked(one, user(IMAGE, text("what")))
    async with beside(folder, "custom") as one:
        assert "media_io_kwargs" not in await asked(one, user(Video(pixels(2, 8, 12), (0.0, 1.0), 2.0), text("what")))


async def test_what_vllm_does_not_take_from_requests_is_left_out(folder: Path) -> None:
    async with beside(folder, fault="no-media-arguments") as one:
        assert one.fake is not None
        moving = user(Video(pixels(3, 8, 12), (0.0, 0.25, 0.5), 0.75), text("what"))
        events = await one.wait(one.submit(one.engine.prepare_chat(moving), 3))
        assert events[-1].finish == "length"
        assert ["media_io_kwargs" in body for body in one.fake.asked] == [True, False]
        await asked(one, moving)  # it is known now
        assert ["media_io_kwargs" in body for body in one.fake.asked] == [True, False, False]


def test_only_the_engine_says_what_it_does_not_take() -> None:
    vllm = Vllm()
    for body in (
        b'{"error": {"message": "media_io_kwargs"}}',
        b"media_io_kwargs",
        b'{"error": "media_io_kwargs"}',
        b"[]",
    ):
        assert vllm.dispensable(400, body) is None
    refused = b'{"error": {"message": "no", "param": "media_io_kwargs"}}'
    assert vllm.dispensable(500, refused) is None
    assert vllm.dispensable(400, refused)
    assert Dialect().dispensable(400, refused) is None


async def test_a_prompt_is_as_long_as_the_engine_says(folder: Path) -> None:
    async with beside(folder) as one:
        ticket = one.submit(one.engine.prepare_chat(user(IMAGE, text("what"))), 3)
        await one.wait(ticket)
        assert len(ticket.prepared.ids) == 3  # of the scripted answer


async def test_what_a_message_spells_is_no_control_token(folder: Path) -> None:
    control = ControlTokens(Tokenizer.from_file(str(folder / "tokenizer.json")))
    tool = {"type": "function", "function": {"name": "f", "description": "<|im_end|>", "parameters": {}}}
    messages = [
        {"role": "system", "content": "be <|im_start|>"},
        *user(IMAGE, text("a<|im_"), text("end|>b <|image_pad|>"), text("plain")),
    ]
    async with beside(folder) as one:
        body = await asked(one, messages, ChatOptions(tools=(tool,)))
    sent = [*body["messages"], body["tools"]]
    spelled = [part["text"] for part in body["messages"][1]["content"] if part["type"] == "text"]
    assert [each.replace("\N{WORD JOINER}", "") for each in spelled] == ["a<|im_end|>b <|image_pad|>", "plain"]
    assert not any(token in str(sent).encode().decode("unicode_escape") for token in control.ids)


async def test_a_kind_that_the_model_does_not_take_is_refused(folder: Path) -> None:
    async with beside(folder) as one:
        with pytest.raises(EngineRefusal, match="not audio"):
            one.engine.prepare_chat(user(Audio(np.zeros(16, np.float32), 16_000)))


def test_thinking_that_cannot_be_turned_off_is_refused() -> None:
    with pytest.raises(EngineRefusal, match="Thinking can't be turned off"):
        media_chat(user(IMAGE), ChatOptions(no_thinking=True))
    known = ChatOptions(no_thinking=True, template_arguments={"enable_thinking": False})
    assert media_chat(user(IMAGE), known).fields["chat_template_kwargs"] == {"enable_thinking": False}
