"""Media through the gateway to real (tiny, random) models of all families."""

import base64
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
from test_media.media_files import picture, png_of_size, saved, sound, video
from test_serve.live_client import Answer
from test_serve.live_pods import LiveGateway, LivePod, events


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


PNG, JPEG = saved(picture(84, 56), "PNG"), saved(picture(112, 84), "JPEG")
WAV, MP3 = sound("wav", "pcm_s16le", seconds=1.0), sound("mp3", "libmp3lame", seconds=1.5)
MP4 = video(sound_codec="aac", frames=20)
WEBM = video("webm", "libvpx", frames=12)
LARGE = saved(PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), np.uint8)), "PNG")
PNG_URL = f"data:image/png;base64,{b64(PNG)}"


@pytest.fixture
def client(older: LiveGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=older.url + "/v1", api_key="none", max_retries=0)


def _user(*parts: dict[str, Any]) -> Any:
    return [{"role": "user", "content": list(parts)}]


TEXT = {"type": "text", "text": "what is it"}
IMAGE = {"type": "image_url", "image_url": {"url": PNG_URL, "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": b64(WAV), "format": "wav"}}
VIDEO = {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{b64(MP4)}"}}


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("qwen-vl", [IMAGE, TEXT]),
        ("qwen-vl", [TEXT, IMAGE, VIDEO, IMAGE]),
        ("qwen-audio", [AUDIO, TEXT, AUDIO]),
        ("qwen-omni", [IMAGE, AUDIO, VIDEO, TEXT]),
        ("blip-vqa", [IMAGE, TEXT]),
    ],
)
def test_openais_client(client: openai.OpenAI, model: str, parts: list[dict[str, Any]]) -> None:
    asked: Any = {"model": model, "messages": _user(*parts), "max_tokens": 12, "temperature": 0}
    plain = client.chat.completions.create(**asked)
    assert plain.usage is not None
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    assert not {"degraded", "note"} & set(plain.model_extra or {})
    again = client.chat.completions.create(**asked)
    assert again.choices[0].message.content == plain.choices[0].message.content


def test_what_the_model_sees_changes_what_it_says(client: openai.OpenAI) -> None:
    def answer(data: bytes) -> str | None:
        part = {"type": "image_url", "image_url": {"url": f"data:;base64,{b64(data)}"}}
        found = client.chat.completions.create(
            model="qwen-vl", messages=_user(part, TEXT), max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
        )
        return found.choices[0].message.content

    black, noise = saved(picture(84, 56).point(lambda _: 0), "PNG"), saved(picture(84, 56).effect_spread(40), "PNG")
    assert len({answer(PNG), answer(black), answer(noise)}) > 1


@pytest.mark.parametrize("model", ["qwen-audio", "qwen-omni"])
def test_transcriptions(client: openai.OpenAI, model: str) -> None:
    plain = client.audio.transcriptions.create(model=model, file=("a.mp3", MP3), language="en")
    assert isinstance(plain.text, str)
    *_, done = list(client.audio.transcriptions.create(model=model, file=("a.mp3", MP3), language="en", stream=True))
    assert done.type == "transcript.text.done"
    with pytest.raises(openai.UnprocessableEntityError):
        client.audio.transcriptions.create(model="qwen-vl", file=("a.mp3", MP3))


def test_a_stream_of_the_older_api(older: LiveGateway) -> None:
    asked = {"prompt": "what", "image": b64(PNG), "video": b64(WEBM), "max_new_tokens": 9, "temperature": 0}
    plain = older.client.post("/generate/qwen_omni", asked).json()
    found = [data for _, data in events(older.client.post("/generate/qwen_omni", asked | {"stream": True}).text)]
    *pieces, last, done = found
    assert "".join(piece["response"] for piece in pieces) == plain["response"]
    assert (last["model_type"], last["generation_method"], done) == ("qwen_omni", plain["generation_method"], "[DONE]")


# What a request may hold, and the statuses that it may end with.
_FIELDS: list[tuple[str, Any, set[int]]] = [
    ("image", b64(PNG), {200}),
    ("image", PNG_URL, {200}),
    ("image", [b64(PNG), b64(JPEG)], {200}),
    ("image", b64(LARGE), {200}),  # more than stays in memory: it goes through a temp file
    ("audio", b64(WAV), {200}),
    ("audio", [b64(MP3)], {200}),
    ("video", b64(MP4), {200}),
    ("video", b64(WEBM), {200}),
    ("image", "no base64!", {400}),
    ("image", b64(PNG[:50]), {400}),
    ("image", b64(b""), {400}),  # an upload that failed
    ("image", [b64(PNG), ""], {400}),
    ("image", b64(png_of_size(20_000, 20_000)), {413}),
    ("image", "https://example.com/a.png", {400}),
    ("audio", b64(PNG), {400}),
    ("audio", b64(WAV[:30]), {400}),
    ("video", b64(b"text that is no video " * 40), {400}),
    ("video", b64(MP4[: len(MP4) // 3]), {400}),
    ("video", b64(WAV), {400}),
]


def _mixed(older: LiveGateway, pod: LivePod, requests: int, seed: int) -> None:
    choice = random.Random(seed)

    def ask(_: int) -> None:
        fields, allowed = {}, {200}
        for name, value, statuses in choice.sample(_FIELDS, choice.choice([0, 1, 1, 2])):
            if name not in fields:
                fields[name] = value
                allowed = statuses if statuses != {200} and allowed == {200} else allowed | (statuses - {200})
        body = {"prompt": "what", "max_new_tokens": choice.choice([1, 4]), "stream": choice.random() < 0.3, **fields}
        answer: Answer = older.client.post("/generate/qwen_omni", body)
        assert answer.status in allowed, (answer.status, answer.text[:300], sorted(fields))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(ask, range(requests)))
    pod.until_load(in_flight=0, queued=0)


@pytest.mark.timeout(600)
def test_a_thousand_requests_leave_nothing_behind(older: LiveGateway, five: dict[str, LivePod], folder: Path) -> None:
    pod = five["qwen-omni"]
    _mixed(older, pod, 250, seed=0)
    before = _resident(older, pod)
    _mixed(older, pod, 1000, seed=1)
    after = _resident(older, pod)
    assert after < 1.1 * before, f"{before} kB after warm-up, {after} kB at the end"
    assert [name for name in os.listdir(folder / "temp") if name.startswith(("ams-", ".ams-"))] == []


def _resident(older: LiveGateway, pod: LivePod) -> int:
    """What the process holds, in kB, without what its allocator only keeps for later."""
    assert older.client.post("/admin/emergency_cleanup", {}).json()["status"] == "success"
    for line in Path(f"/proc/{pod.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")
