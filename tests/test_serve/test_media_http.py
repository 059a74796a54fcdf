"""Media over HTTP: what reaches the model, what the answer says of it, and what is refused before anything runs."""

import asyncio
import base64
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import PIL.Image
import pytest
import pytest_asyncio
from ams_pod.engines.port import Degraded, EngineRefusal, Prepared
from ams_pod.media.sizing import FrameRule, SizeRule, Sizes
from test_media.media_files import document, picture, png_of_size, saved, sound, video
from test_serve.echo_pod import EchoPod, echo_pod
from test_serve.live_pods import events


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64(data)}"


PNG = saved(picture(), "PNG")
JPEG = saved(picture(64, 48), "JPEG")
WAV = sound("wav", "pcm_s16le", seconds=2.0, rate=44_100, channels=2)
MP4 = video(sound_codec="aac")
CHAT = "/v1/chat/completions"


@pytest_asyncio.fixture
async def omni(tmp_path: Path) -> AsyncIterator[EchoPod]:
    async with echo_pod(tmp_path, "omni") as pod:
        yield pod


def user(*parts: Any) -> list[dict[str, Any]]:
    named = {"image_url": "image_url", "video_url": "video_url", "input_audio": "input_audio", "text": "text"}
    content = []
    for kind, value in parts:
        inside = (
            {"url": value}
            if kind.endswith("_url")
            else {"data": value, "format": "wav"}
            if kind == "input_audio"
            else value
        )
        content.append({"type": kind, named[kind]: inside})
    return [{"role": "user", "content": content}]


async def test_all_media_of_the_older_api(omni: EchoPod) -> None:
    status, body = await omni.generate(image=b64(PNG), audio=b64(WAV), video=b64(MP4), system="be brief")
    assert status == 200
    assert body["response"] == (
        "system: be brief; user: <image 32x24> <video 8 of 64x48, 4s with 4s of sound> <audio 2.0s at 16000> what"
    )
    assert (body["model_type"], body["generation_method"], body["memory_optimized"]) == (
        "qwen_omni",
        "multimodal_gpu",
        True,
    )
    assert not {"note", "degraded"} & set(body)


async def test_lists_and_data_uris(omni: EchoPod) -> None:
    status, body = await omni.generate(image=[uri(PNG), b64(JPEG)], audio=[uri(WAV, "audio/wav")])
    assert status == 200
    assert body["response"] == "user: <image 32x24> <image 64x48> <audio 2.0s at 16000> what"


@pytest.mark.parametrize(
    ("device", "media", "method"),
    [
        ("cuda", {}, "text_gpu"),
        ("cuda", {"image": [b64(PNG)]}, "single_modal_gpu"),
        ("cuda", {"image": [b64(PNG)] * 2}, "multimodal_gpu"),
        ("cpu", {}, "text_cpu"),
        ("cpu", {"audio": b64(WAV)}, "single_modal_cpu"),
        ("cpu", {"image": b64(PNG), "audio": b64(WAV)}, "multimodal_cpu"),
    ],
)
async def test_the_older_servers_words(tmp_path: Path, device: str, media: dict[str, Any], method: str) -> None:
    async with echo_pod(tmp_path, "omni", info={"device": device, "precision": "float32"}) as pod:
        _, body = await pod.generate(**media)
        assert (body["generation_method"], body["memory_optimized"]) == (method, False)


@pytest.mark.parametrize("family", ["text", "vision-language", "audio-language", "vqa"])
async def test_only_omni_says_how(tmp_path: Path, family: str) -> None:
    async with echo_pod(tmp_path, family) as pod:
        status, body = await pod.generate()
        assert status == 200
        assert set(body) == {"response", "usage", "model", "finish_reason"}


@pytest.mark.parametrize("empty", [None, []])
async def test_empty_fields_are_no_media(tmp_path: Path, empty: Any) -> None:
    async with echo_pod(tmp_path, "text") as pod:
        assert (await pod.generate(image=empty, audio=empty, video=empty))[1]["response"] == "user: what"


PDF = saved(picture(200, 100), "PDF", save_all=True, append_images=[picture(100, 200)], resolution=200)


async def test_parts_that_other_servers_take(omni: EchoPod) -> None:
    """vLLM's audio_url and frames with commas, OpenAI's file with a PDF."""
    frames = "data:video/jpeg;base64," + ",".join([b64(JPEG)] * 5)
    content = [
        {"type": "audio_url", "audio_url": {"url": uri(WAV, "audio/wav")}},
        {"type": "video_url", "video_url": {"url": frames}},
        {"type": "file", "file": {"file_data": uri(PDF, "application/pdf"), "filename": "a.pdf"}},
        {"type": "image_url", "image_url": {"url": uri(PDF, "application/pdf")}},
        {"type": "text", "text": "what"},
    ]
    status, body = await omni.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": content}]})
    assert status == 200, body
    pages = "<image 200x100> <image 100x200>"
    assert body["choices"][0]["message"]["content"] == (
        f"user: <audio 2.0s at 16000> <video 5 of 64x48, 2s> {pages} {pages} what"
    )


async def test_pages_of_a_pdf_on_the_older_route(omni: EchoPod) -> None:
    status, body = await omni.generate(image=b64(PDF))
    assert (status, body["response"]) == (200, "user: <image 200x100> <image 100x200> what")


async def test_pages_count_as_media(omni: EchoPod) -> None:
    status, body = await omni.generate(image=[b64(document(b"", pages=32))] * 3)
    assert (status, body["details"]["code"]) == (400, "invalid_parameter")
    assert "holds 96 media; at most 64" in body["error"]


@pytest.mark.parametrize(
    ("file", "param", "says"),
    [
        ({"file_id": "file-1"}, "file_id", "Put it into file_data"),
        ({}, "file_data", "Put it into file_data"),
        ({"file_data": uri(b"hello", "text/plain")}, "file_data", "Of files, PDF is taken; send images as image_url"),
        ({"file_data": uri(PNG, "application/pdf")}, "file_data", "it is no PDF"),
        ({"file_data": "!!"}, "file_data", "must be base64"),
    ],
)
async def test_files_that_are_not_taken(omni: EchoPod, file: dict[str, str], param: str, says: str) -> None:
    content = [{"type": "file", "file": file}]
    status, body = await omni.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": content}]})
    assert (status, body["error"]["param"]) == (400, f"messages[0].content[0].file.{param}")
    assert says in body["error"]["message"]


async def test_frames_that_make_no_video(omni: EchoPod) -> None:
    for frames, says in (
        ([JPEG, PNG[:20]], "can't be decoded"),
        ([JPEG, saved(picture(32, 32), "JPEG")], "its frame 2 has another size"),
        ([JPEG] * 257, "257 frames; at most 256"),
        ([b""], "it is empty"),
    ):
        text = "data:video/jpeg;base64," + ",".join(map(b64, frames))
        status, body = await omni.generate(video=text)
        assert status in (400, 413)
        assert says in body["error"]


@pytest.mark.parametrize("kind", ["image", "audio", "video"])
async def test_a_file_without_content_is_refused(omni: EchoPod, kind: str) -> None:
    """An upload that failed: the answer must not be an invention about nothing."""
    for empty, field in (("", kind), ([""], f"{kind}[0]"), (["data:;base64,"], f"{kind}[0]")):
        status, body = await omni.generate(**{kind: empty})
        assert (status, body["details"]["code"], body["details"]["param"]) == (400, f"undecodable_{kind}", field)
        assert "it is empty" in body["error"]


RULES = Sizes(SizeRule(28, 56 * 56, 100 * 28 * 28), FrameRule(SizeRule(28, 4 * 28 * 28, 50 * 28 * 28)))
PHOTO = saved(picture(1600, 1200), "JPEG")


@pytest_asyncio.fixture
async def ruled(tmp_path: Path) -> AsyncIterator[EchoPod]:
    """A model that has rules for sizes, as Qwen's have."""
    async with echo_pod(tmp_path, "omni") as pod:
        pod.engine.capabilities = replace(pod.engine.capabilities, sizes=RULES)
        yield pod


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ({}, "308x224"),
        ({"max_pixels": 50 * 28 * 28}, "224x168"),
        ({"max_pixels": 10**9}, "308x224"),
        ({"min_pixels": 98 * 28 * 28}, "308x224"),
    ],
)
async def test_the_size_that_a_model_sees(ruled: EchoPod, asked: dict[str, int], seen: str) -> None:
    part = {"type": "image_url", "image_url": {"url": uri(PHOTO)}}
    small = {"type": "image_url", "image_url": {"url": uri(PNG)}}
    ways = [
        {"messages": [{"role": "user", "content": [part | asked, small]}]},
        {"messages": [{"role": "user", "content": [{**part, "image_url": part["image_url"] | asked}, small]}]},
        {"messages": [{"role": "user", "content": [part, small]}], "mm_processor_kwargs": asked},
    ]
    for way in ways:
        async with ruled.client.post(ruled.url + CHAT, json={"model": "echo", **way}) as response:
            told = response.headers["X-AMS-Image-Size"].split(", ")
            answer = (await response.json())["choices"][0]["message"]["content"]
            assert told[0] == seen
            assert answer == f"user: <image {told[0]}> <image {told[1]}>"
            assert "X-AMS-Ignored-Fields" not in response.headers


async def test_low_detail_and_names_of_transformers(ruled: EchoPod) -> None:
    pod = ruled
    pod.engine.capabilities = replace(
        pod.engine.capabilities, sizes=replace(RULES, image=SizeRule(28, 56 * 56, 16384 * 28 * 28))
    )
    low = {"type": "image_url", "image_url": {"url": uri(PHOTO), "detail": "low"}}
    _, body = await pod.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": [low]}]})
    assert body["choices"][0]["message"]["content"] == "user: <image 588x420>"
    size = {"size": {"shortest_edge": 3136, "longest_edge": 50 * 28 * 28}}
    _, body = await pod.generate(image=b64(PHOTO), mm_processor_kwargs=size)
    assert body["response"] == "user: <image 224x168> what"


async def test_the_bound_of_a_deployment(tmp_path: Path) -> None:
    for sizes in (RULES, Sizes()):
        async with echo_pod(tmp_path, "vision-language", image_pixels=50 * 28 * 28) as pod:
            pod.engine.capabilities = replace(pod.engine.capabilities, sizes=sizes)
            _, body = await pod.generate(image=b64(PHOTO))
            width, height = map(int, body["response"].partition("<image ")[2].partition(">")[0].split("x"))
            assert 0.8 * 50 * 28 * 28 < width * height <= 50 * 28 * 28


@pytest.mark.parametrize(
    ("part", "request_", "frames"),
    [
        ({"nframes": 3}, {}, 3),
        ({"fps": 2}, {}, 8),
        ({}, {"mm_processor_kwargs": {"fps": 5}}, 20),
        ({}, {"mm_processor_kwargs": {"num_frames": 30}}, 30),
        ({}, {"media_io_kwargs": {"video": {"num_frames": 5}}}, 5),
        ({"nframes": 3}, {"mm_processor_kwargs": {"fps": 5}}, 3),
        ({}, {}, 8),
    ],
)
async def test_frames_that_are_wanted(ruled: EchoPod, part: Any, request_: Any, frames: int) -> None:
    film = {"type": "video_url", "video_url": {"url": uri(MP4, "video/mp4")}} | part
    asked = {"model": "echo", "messages": [{"role": "user", "content": [film]}]} | request_
    _, body = await ruled.post(CHAT, asked)
    assert f"<video {frames} of " in body["choices"][0]["message"]["content"]


async def test_videos_without_their_sound(ruled: EchoPod) -> None:
    for wanted, heard in ((False, False), (True, True), (None, True)):
        _, body = await ruled.generate(video=b64(MP4), mm_processor_kwargs={"use_audio_in_video": wanted})
        assert ("of sound" in body["response"]) is heard


async def test_wishes_that_a_model_cannot_fulfil_are_named(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "vision-language") as pod:
        asked = {"prompt": "what", "image": b64(PHOTO), "video": b64(MP4)}
        asked["mm_processor_kwargs"] = {"min_pixels": 100, "use_audio_in_video": True}
        async with pod.client.post(pod.url + "/generate", json=asked) as response:
            assert response.status == 200
            assert response.headers["X-AMS-Ignored-Fields"] == "min_pixels, use_audio_in_video"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"min_pixels": 200 * 28 * 28}, "min_pixels is 156,800, above 78,400"),
        ({"min_pixels": 9, "max_pixels": 5}, "min_pixels is 9, above max_pixels, 5"),
        ({"max_pixels": 0}, "max_pixels"),
    ],
)
async def test_wishes_that_make_no_sense(ruled: EchoPod, part: Any, says: str) -> None:
    image = {"type": "image_url", "image_url": {"url": uri(PHOTO)}} | part
    status, body = await ruled.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": [image]}]})
    assert (status, body["error"]["code"]) == (400, "invalid_parameter")
    assert says in body["error"]["message"]


async def test_two_ways_to_ask_for_frames(ruled: EchoPod) -> None:
    film = {"type": "video_url", "video_url": {"url": uri(MP4, "video/mp4")}, "fps": 2, "nframes": 4}
    status, body = await ruled.post(CHAT, {"model": "echo", "messages": [{"role": "user", "content": [film]}]})
    assert (status, body["error"]["param"]) == (400, "messages[0].content[0]")
    assert "nframes and fps exclude each other" in body["error"]["message"]


@pytest.mark.parametrize(
    ("family", "field", "takes"),
    [
        ("text", "image", "echo takes text; it takes no image"),
        ("vision-language", "audio", "echo takes text, image and video; it takes no audio"),
        ("audio-language", "image", "echo takes text and audio; it takes no image"),
        ("vqa", "video", "echo takes text and image; it takes no video"),
    ],
)
async def test_what_the_model_does_not_take(tmp_path: Path, family: str, field: str, takes: str) -> None:
    """Refused without a look at the media, and before a place in the queue is taken."""
    async with echo_pod(tmp_path, family) as pod:
        status, body = await pod.generate(**{field: "!! no base64 !!"})
        assert (status, body["details"]["code"], body["details"]["param"]) == (422, "unsupported_modality", field)
        assert takes in body["error"]
        kind = {"image": "image_url", "audio": "input_audio", "video": "video_url"}[field]
        status, body = await pod.post(CHAT, {"model": "echo", "messages": user(("text", "hi"), (kind, "!!"))})
        assert (status, body["error"]["code"]) == (422, "unsupported_modality")
        assert body["error"]["param"].startswith("messages[0].content[1].")
        assert pod.engine.prepared == []


async def test_parts_of_a_chat_stay_in_order(omni: EchoPod) -> None:
    messages = [
        {"role": "system", "content": "look"},
        *user(("text", "first"), ("image_url", uri(PNG)), ("text", "then"), ("input_audio", b64(WAV))),
        {"role": "assistant", "content": "I see"},
        *user(("video_url", uri(MP4, "video/mp4")), ("image_url", b64(JPEG)), ("text", "and now?")),
    ]
    status, body = await omni.post(CHAT, {"model": "echo", "messages": messages})
    assert status == 200
    assert body["choices"][0]["message"]["content"] == (
        "system: look; user: first <image 32x24> then <audio 2.0s at 16000>; assistant: I see; "
        "user: <video 8 of 64x48, 4s with 4s of sound> <image 64x48> and now?"
    )
    assert not {"degraded", "note"} & set(body)


async def test_an_image_needs_no_words(omni: EchoPod) -> None:
    status, body = await omni.post(CHAT, {"model": "echo", "messages": user(("image_url", uri(PNG)))})
    assert (status, body["choices"][0]["message"]["content"]) == (200, "user: <image 32x24>")


async def test_vision_models_get_videos_without_sound(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "vision-language", video_frames=3) as pod:
        _, body = await pod.generate(video=b64(MP4))
        assert body["response"] == "user: <video 3 of 64x48, 4s> what"


async def test_openais_client_with_media(omni: EchoPod) -> None:
    async with openai.AsyncOpenAI(base_url=omni.url + "/v1", api_key="none", max_retries=0) as client:
        asked: Any = {
            "model": "echo",
            "messages": user(("image_url", uri(PNG)), ("input_audio", b64(WAV)), ("text", "?")),
        }
        plain = await client.chat.completions.create(**asked)
        expected = "user: <image 32x24> <audio 2.0s at 16000> ?"
        assert plain.choices[0].message.content == expected
        stream = await client.chat.completions.create(**asked, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == expected
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(
                model="echo", messages=user(("image_url", "https://example.com/a.png"))
            )
        assert (caught.value.code, caught.value.param) == ("invalid_parameter", "messages[0].content[0].image_url.url")
        assert "URLs are not fetched by this server" in caught.value.message


@pytest.mark.parametrize(
    ("fields", "status", "code", "param", "says"),
    [
        ({"image": "AA*A"}, 400, "invalid_base64", "image", "character '*' at position 2"),
        ({"image": [b64(PNG), "A"]}, 400, "invalid_base64", "image[1]", "cut off"),
        ({"image": "AAAA"}, 400, "undecodable_image", "image", "no image format"),
        ({"image": uri(b"")}, 400, "undecodable_image", "image", "it is empty"),
        ({"image": b64(PNG[:40])}, 400, "undecodable_image", "image", ""),
        ({"image": b64(b"%PDF-1.4 ")}, 400, "undecodable_image", "image", "the PDF is broken"),
        ({"image": b64(png_of_size(20_000, 20_000))}, 413, "media_too_large", "image", "20,000 × 20,000 pixels"),
        ({"audio": b64(PNG)}, 400, "undecodable_audio", "audio", "not supported"),
        ({"audio": [b64(WAV), b64(b"RIFF")]}, 400, "undecodable_audio", "audio[1]", ""),
        ({"video": b64(b"This is a text file named mp4." * 9)}, 400, "undecodable_video", "video", "no format"),
        ({"video": b64(WAV)}, 400, "undecodable_video", "video", "it has no pictures"),
        ({"video": "file:///etc/passwd"}, 400, "invalid_parameter", "video", "file:// is not fetched"),
        ({"image": "http://127.0.0.1/a.png"}, 400, "invalid_parameter", "image", "URLs are not fetched"),
        ({"image": [b64(PNG)] * 65}, 400, "invalid_parameter", None, "65 media; at most 64"),
        ({"image": 7}, 400, "invalid_parameter", "image", "image: expected"),
        ({"image": [7]}, 400, "invalid_parameter", "image[0]", "expected str"),
    ],
)  # fmt: skip
async def test_bad_media(
    omni: EchoPod, fields: dict[str, Any], status: int, code: str, param: str | None, says: str
) -> None:
    for stream in (False, True):
        given, body = await omni.generate(**fields, stream=stream)
        assert (given, body["details"]["code"], body["details"].get("param")) == (status, code, param)
        assert says in body["error"]
    assert omni.engine.prepared == []
    assert omni.pod.active == 0
    assert not omni.temp.exists() or os.listdir(omni.temp) == []


async def test_urls_of_other_hosts_than_the_allowed(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "omni", media_url_hosts="example.com") as pod:
        status, body = await pod.generate(image="https://evil.test/a.png")
        assert (status, body["error"]) == (
            400,
            "image: media are not fetched from evil.test; send base64 or a data URI.",
        )


NOTES: list[tuple[Degraded, str, str]] = [
    ("cpu", "multimodal_cpu", "computed on the CPU"),
    ("text-only", "gpu_text_only_fallback", "from the text alone"),
    ("simplified", "emergency_fallback", "a fixed answer, not the model's"),
]


@pytest.mark.parametrize(("degraded", "method", "says"), NOTES)
async def test_degraded_answers_say_so(omni: EchoPod, degraded: Degraded, method: str, says: str) -> None:
    omni.engine.degraded = degraded
    status, body = await omni.generate(image=b64(PNG), audio=b64(WAV))
    assert (status, body["degraded"], body["generation_method"]) == (200, degraded, method)
    assert says in body["note"]
    if degraded == "simplified":
        assert "short of memory" in body["response"]
    async with omni.client.post(omni.url + "/generate", json={"prompt": "what", "stream": True}) as response:
        found = [data for _, data in events(await response.text())]
    *pieces, last, done = found
    assert done == "[DONE]"
    assert "".join(piece["response"] for piece in pieces) == (
        body["response"] if degraded == "simplified" else "user: what"
    )
    assert (last["degraded"], last["note"]) == (degraded, body["note"])


async def test_usage_is_of_the_prompt_that_was_read(omni: EchoPod) -> None:
    """Without its media, where there was no memory for them."""
    omni.engine.hold, omni.engine.degraded = True, "text-only"
    asking = asyncio.create_task(omni.generate(image=b64(PNG)))
    await omni.engine.submitted.wait()
    (ticket,) = omni.engine.tickets
    ticket.prepared = Prepared([ord("h"), ord("i")])
    omni.engine.answer(ticket)
    status, body = await asking
    assert (status, body["response"], body["usage"]["prompt_tokens"]) == (200, "hi", 2)


@pytest.mark.parametrize(("degraded", "method", "says"), NOTES)
async def test_degraded_answers_of_openais_api(omni: EchoPod, degraded: Degraded, method: str, says: str) -> None:
    omni.engine.degraded = degraded
    async with openai.AsyncOpenAI(base_url=omni.url + "/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "echo", "messages": user(("image_url", uri(PNG)), ("text", "?"))}
        plain = await client.chat.completions.create(**asked)
        extra = plain.model_extra or {}
        assert extra["degraded"] == degraded
        assert says in extra["note"]
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
        assert (chunks[-1].model_extra or {})["degraded"] == degraded
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
        text = await client.completions.create(model="echo", prompt="hello")
        assert (text.model_extra or {})["degraded"] == degraded


async def test_no_fallback_left(omni: EchoPod) -> None:
    omni.engine.error = EngineRefusal("out-of-memory", "The request needs 9 GB of GPU memory; 2 GB are free.")
    async with omni.client.post(omni.url + "/generate", json={"prompt": "what", "image": b64(PNG)}) as response:
        body = await response.json()
        assert (response.status, body["details"]["code"]) == (503, "insufficient_memory")
        assert body["error"] == "The request needs 9 GB of GPU memory; 2 GB are free."
        assert int(response.headers["Retry-After"]) >= 1
    status, body = await omni.post(CHAT, {"model": "echo", "messages": user(("text", "hi")), "stream": True})
    assert (status, body["error"]["code"]) == (503, "insufficient_memory")


async def test_running_out_of_memory_in_a_stream(omni: EchoPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_pod.serve.answering._SILENCE_SECONDS", 0.0)
    omni.engine.hold = True
    request = asyncio.create_task(omni.generate(stream=True))
    await omni.engine.submitted.wait()
    omni.engine.error = EngineRefusal("out-of-memory", "No memory is left.")
    omni.engine.answer(omni.engine.tickets[0])
    status, text = await request
    assert status == 200
    (kind, error), = events(text)  # fmt: skip
    assert (kind, error["details"]["code"]) == ("error", "insufficient_memory")
    assert "[DONE]" not in text


async def test_a_stream_begins_while_media_are_prepared(omni: EchoPod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_pod.serve.answering._SILENCE_SECONDS", 0.01)
    go = threading.Event()
    omni.engine.on_prepare = lambda _: go.wait(30)
    body = {"prompt": "what", "image": b64(PNG), "stream": True}
    async with omni.client.post(omni.url + "/generate", json=body) as response:
        assert await response.content.readline() == b": preparing\n"
        go.set()
        assert "<image 32x24>" in "".join(data["response"] for _, data in events((await response.read()).decode())[:-1])


async def test_texts_overtake_media_that_are_prepared(omni: EchoPod) -> None:
    begun, go = threading.Event(), threading.Event()

    def slow(messages: Any) -> None:
        if not isinstance(messages[0]["content"], str):
            begun.set()
            go.wait(30)

    omni.engine.on_prepare = slow
    picture_request = asyncio.create_task(omni.generate(image=b64(PNG)))
    await asyncio.to_thread(begun.wait, 30)
    assert (await omni.generate())[1]["response"] == "user: what"
    assert not picture_request.done()
    go.set()
    assert "<image 32x24>" in (await picture_request)[1]["response"]


async def test_a_client_that_leaves_while_its_video_is_decoded(omni: EchoPod, monkeypatch: pytest.MonkeyPatch) -> None:
    from ams_pod.media import decoding

    begun, stopped = threading.Event(), threading.Event()

    def endless(item: Any, wanted: Any, limits: Any, watch: Any) -> Any:
        watch.item(item.field)
        begun.set()
        try:
            while True:
                watch.check()
        finally:
            stopped.set()

    monkeypatch.setattr(decoding, "decode", endless)
    request = asyncio.create_task(omni.generate(video=b64(MP4)))
    await asyncio.to_thread(begun.wait, 30)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    assert await asyncio.to_thread(stopped.wait, 30)
    async with asyncio.timeout(30):
        while omni.pod.active:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert omni.pod.intake.budget.used == 0
    monkeypatch.undo()
    assert (await omni.generate(image=b64(PNG)))[0] == 200


async def test_memory_is_held_until_the_model_has_read_the_media(omni: EchoPod) -> None:
    omni.engine.hold = True
    request = asyncio.create_task(omni.generate(image=b64(JPEG)))
    await omni.engine.submitted.wait()
    assert omni.pod.intake.budget.used == 64 * 48 * 3
    assert not omni.temp.exists() or os.listdir(omni.temp) == []
    omni.engine.answer(omni.engine.tickets[0])
    assert (await request)[0] == 200
    assert omni.pod.intake.budget.used == 0


async def test_large_uploads_leave_no_file(omni: EchoPod) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1500, 2000, 3), np.uint8)
    large = saved(PIL.Image.fromarray(noise), "PNG")
    assert len(large) > 5 << 20
    seen: list[list[str]] = []
    omni.engine.on_prepare = lambda _: seen.append(os.listdir(omni.temp))
    status, body = await omni.generate(image=b64(large))
    assert (status, body["response"]) == (200, "user: <image 2000x1500> what")
    assert seen == [[]], "the upload is gone as soon as it is decoded"
    assert os.listdir(omni.temp) == []


async def test_decoding_is_measured(omni: EchoPod) -> None:
    await omni.generate(image=[b64(PNG)] * 2, audio=b64(WAV))
    async with omni.client.get(omni.url + "/metrics") as response:
        text = await response.text()
    assert 'ams_pod_media_decode_seconds_count{kind="image"} 2.0' in text
    assert 'ams_pod_media_decode_seconds_count{kind="audio"} 1.0' in text
    assert f'ams_pod_media_bytes_total{{kind="image"}} {2.0 * len(PNG)}' in text


async def test_a_full_queue_is_told_before_media_are_looked_at(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "omni", info={"concurrent_requests": 1}, queued_requests=0) as pod:
        pod.engine.hold = True
        first = asyncio.create_task(pod.generate())
        await pod.engine.submitted.wait()
        status, body = await pod.generate(image="!! no base64 !!")
        assert (status, body["details"]["code"]) == (429, "queue_full")
        pod.engine.answer(pod.engine.tickets[0])
        assert (await first)[0] == 200
