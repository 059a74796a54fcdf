"""`/v1/audio/transcriptions` of a pod, with OpenAI's client and by hand."""

import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
import pytest_asyncio
from test_media.media_files import picture, saved, sound, video
from test_serve.echo_pod import EchoPod, echo_pod

WAV = sound("wav", "pcm_s16le", seconds=2.0)
TASK = "Transcribe the speech in the audio word for word. Answer with the transcript only."
SAID = f"user: <audio 2.0s at 16000> {TASK}"
PATH = "/v1/audio/transcriptions"


@pytest_asyncio.fixture
async def pod(tmp_path: Path) -> AsyncIterator[EchoPod]:
    async with echo_pod(tmp_path, "audio-language") as running:
        yield running


@pytest_asyncio.fixture
async def client(pod: EchoPod) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=pod.url + "/v1", api_key="none", max_retries=0) as made:
        yield made


async def test_json(client: openai.AsyncOpenAI, pod: EchoPod) -> None:
    answer = await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV))
    assert answer.text == SAID
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.output_tokens == len(SAID)
    assert pod.engine.tickets[0].sampling.temperature == 0


async def test_language_prompt_and_temperature(client: openai.AsyncOpenAI, pod: EchoPod) -> None:
    answer = await client.audio.transcriptions.create(
        model="Echo", file=("a.wav", WAV), language="pt-BR", prompt="Olá, AMS", temperature=0.4, response_format="json"
    )
    assert answer.text.startswith(SAID)
    assert "The language is pt-BR." in answer.text
    assert "Olá, AMS" in answer.text
    assert pod.engine.tickets[0].sampling.temperature == 0.4


async def test_text(client: openai.AsyncOpenAI) -> None:
    answer: Any = await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV), response_format="text")
    assert answer == SAID + "\n"


async def test_stream(client: openai.AsyncOpenAI) -> None:
    stream = await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV), stream=True)
    *deltas, done = [event async for event in stream]
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == SAID
    assert done.type == "transcript.text.done"
    assert done.text == SAID


async def test_the_sound_of_a_video(client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.transcriptions.create(model="echo", file=("a.mp4", video(sound_codec="aac")))
    assert "<audio 4.0s" in answer.text


@pytest.mark.parametrize("format", ["verbose_json", "srt", "vtt", "diarized_json"])
async def test_formats_that_need_times(client: openai.AsyncOpenAI, format: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=r"response_format: .*allowed: json, text") as caught:
        await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV), response_format=format)
    assert (caught.value.code, caught.value.param) == ("invalid_parameter", "response_format")


async def test_models_that_do_not_listen(tmp_path: Path) -> None:
    async with (
        echo_pod(tmp_path, "vision-language") as pod,
        openai.AsyncOpenAI(base_url=pod.url + "/v1", api_key="none", max_retries=0) as client,
    ):
        with pytest.raises(openai.UnprocessableEntityError, match="takes no audio") as caught:
            await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV))
        assert (caught.value.code, caught.value.param) == ("unsupported_modality", "file")


async def test_files_that_are_no_audio(client: openai.AsyncOpenAI, pod: EchoPod) -> None:
    for data in (b"", b"hello", saved(picture(), "PNG"), WAV[:20]):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.audio.transcriptions.create(model="echo", file=("a.wav", data))
        assert (caught.value.code, caught.value.param) == ("undecodable_audio", "file")
    assert pod.engine.prepared == []


async def test_another_model(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.audio.transcriptions.create(model="whisper-1", file=("a.wav", WAV))


async def _send(pod: EchoPod, data: Any, **headers: str) -> tuple[int, str, str | None]:
    async with pod.client.post(pod.url + PATH, data=data, headers=headers) as response:
        body = await response.json()
        return response.status, body["error"]["code"], body["error"]["param"]


async def test_forms_that_are_wrong(pod: EchoPod) -> None:
    def form(*fields: tuple[str, str], file: bool = True) -> aiohttp.FormData:
        made = aiohttp.FormData()
        for name, value in fields:
            made.add_field(name, value)
        if file:
            made.add_field("file", io.BytesIO(WAV), filename="a.wav")
        else:
            made.add_field("other", io.BytesIO(b"x"), filename="a.wav")
        return made

    assert await _send(pod, form(("model", "echo"), file=False)) == (400, "invalid_parameter", "file")
    assert await _send(pod, form()) == (400, "invalid_parameter", "model")
    assert await _send(pod, form(("model", "echo"), ("temperature", "9"))) == (400, "invalid_parameter", "temperature")
    assert await _send(pod, form(("model", "echo"), ("temperature", "hot"))) == (
        400,
        "invalid_parameter",
        "temperature",
    )
    assert await _send(pod, form(("model", "echo"), ("language", "<script>"))) == (400, "invalid_parameter", "language")
    assert await _send(pod, form(("model", "echo"), ("prompt", "x" * 70_000))) == (400, "invalid_parameter", "prompt")
    many = [("model", "echo"), *[(f"field{number}", "x") for number in range(80)]]
    assert (await _send(pod, form(*many)))[:2] == (400, "invalid_parameter")
    assert (await _send(pod, b"{}", **{"Content-Type": "application/json"}))[:2] == (415, "unsupported_media_type")
    for body in (b"", b"no form", b"--b\r\n", b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nRIFF'):
        status, code, _ = await _send(pod, body, **{"Content-Type": "multipart/form-data; boundary=b"})
        assert (status, code) in {(400, "invalid_parameter"), (400, "undecodable_audio")}, body
    assert (await _send(pod, b"", **{"Content-Type": "multipart/form-data"}))[:2] == (400, "invalid_parameter")


async def test_unknown_fields_are_named(pod: EchoPod) -> None:
    made = aiohttp.FormData()
    for name, value in (("model", "echo"), ("hotwords[]", "word"), ("chunking_strategy", "auto")):
        made.add_field(name, value)
    made.add_field("file", io.BytesIO(WAV), filename="a.wav")
    async with pod.client.post(pod.url + PATH, data=made) as response:
        assert response.status == 200
        assert response.headers["X-AMS-Ignored-Fields"] == "hotwords"
    made = aiohttp.FormData()
    for name, value in (("model", "echo"), ("timestamp_granularities[]", "word")):
        made.add_field(name, value)
    made.add_field("file", io.BytesIO(WAV), filename="a.wav")
    async with pod.client.post(pod.url + PATH, data=made) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "timestamp_granularities"


@pytest.mark.parametrize(
    "head",
    [b"X: y\r\n" * 1_000_000, b"X: " + b"y" * 5_000_000 + b"\r\n", b"X" * 5_000_000, b"\xff\x00\r\n" * 1000],
    ids=["a million headers", "a long header", "no header", "bytes"],
)
async def test_a_part_with_hostile_headers_is_refused(pod: EchoPod, head: bytes) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n' + head + b"\r\necho\r\n--x--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    async with (
        aiohttp.ClientSession() as session,
        session.post(pod.url + PATH, data=io.BytesIO(form), headers=kind) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_parameter")


async def test_forms_larger_than_allowed(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "audio-language", max_body_bytes=2000) as pod:
        for announced in (True, False):
            made = aiohttp.FormData()
            made.add_field("file", io.BytesIO(WAV), filename="a.wav")
            payload = made() if announced else None

            async def chunks() -> AsyncIterator[bytes]:
                yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
                for _ in range(100):
                    yield WAV

            headers = {} if announced else {"Content-Type": "multipart/form-data; boundary=b"}
            assert (await _send(pod, payload or chunks(), **headers))[:2] == (413, "body_too_large")
