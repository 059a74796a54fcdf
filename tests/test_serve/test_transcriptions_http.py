"""`/v1/audio/transcriptions` of a pod, with OpenAI's client and by hand."""

import asyncio
import io
import itertools
import re
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
        running.engine.finish = "stop"
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


LONG = sound("wav", "pcm_s16le", seconds=75.0)  # three windows


def windows_of(text: str) -> list[float]:
    return [float(seconds) for seconds in re.findall(r"<audio ([0-9.]+)s at 16000>", text)]


async def test_a_long_recording_is_heard_in_windows(client: openai.AsyncOpenAI, pod: EchoPod) -> None:
    answer = await client.audio.transcriptions.create(model="echo", file=("a.wav", LONG))
    heard = windows_of(answer.text)
    assert sum(heard) == pytest.approx(75, abs=0.2)
    assert len(heard) == 3
    assert max(heard) <= 30
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.output_tokens == sum(len(ticket.prepared.ids) for ticket in pod.engine.tickets)
    assert (answer.model_extra or {})["finish_reason"] == "stop"


async def test_windows_run_beside_each_other_but_leave_room(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "audio-language", info={"concurrent_requests": 8}) as pod:
        pod.engine.hold = True
        form = aiohttp.FormData({"model": "echo"})
        form.add_field("file", io.BytesIO(LONG), filename="a.wav")
        request = asyncio.create_task(pod.client.post(pod.url + PATH, data=form))
        while len(pod.engine.tickets) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert len(pod.engine.tickets) == 2
        pod.engine.hold = False
        for ticket in pod.engine.tickets:
            pod.engine.answer(ticket)
        async with await request as response:
            assert len(windows_of((await response.json())["text"])) == 3


async def test_a_long_stream_is_the_plain_answer(client: openai.AsyncOpenAI) -> None:
    plain = await client.audio.transcriptions.create(model="echo", file=("a.wav", LONG))
    stream = await client.audio.transcriptions.create(model="echo", file=("a.wav", LONG), stream=True)
    *deltas, done = [event async for event in stream]
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == plain.text
    assert done.type == "transcript.text.done"
    assert done.text == plain.text


async def test_verbose_json(client: openai.AsyncOpenAI) -> None:
    for data, count in ((WAV, 1), (LONG, 3)):
        answer = await client.audio.transcriptions.create(
            model="echo", file=("a.wav", data), response_format="verbose_json", timestamp_granularities=["segment"],
            language="en",
        )  # fmt: skip
        assert answer.segments is not None
        assert len(answer.segments) == count
        assert (answer.segments[0].start, answer.language, answer.task) == (0, "en", "transcribe")
        assert answer.segments[-1].end == answer.duration == pytest.approx(2 if count == 1 else 75, abs=0.1)
        assert all(one.end == next_.start for one, next_ in itertools.pairwise(answer.segments))
        assert " ".join(segment.text for segment in answer.segments) == answer.text


async def test_subtitles(pod: EchoPod) -> None:
    async def asked(format: str) -> tuple[str, str]:
        form = aiohttp.FormData({"model": "echo", "response_format": format})
        form.add_field("file", io.BytesIO(LONG), filename="a.wav")
        async with pod.client.post(pod.url + PATH, data=form) as response:
            assert response.headers["X-AMS-Finish-Reason"] == "stop"
            return response.content_type, await response.text()

    kind, text = await asked("srt")
    assert kind == "application/x-subrip"
    cues = text.strip().split("\n\n")
    assert [cue.splitlines()[0] for cue in cues] == ["1", "2", "3"]
    assert cues[0].splitlines()[1].startswith("00:00:00,000 --> 00:00:2")
    assert cues[2].splitlines()[1].endswith(" --> 00:01:15,000")
    kind, text = await asked("vtt")
    assert kind == "text/vtt"
    assert text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:2")
    assert "&lt;audio" in text


async def test_a_transcript_that_was_cut_off_says_so(pod: EchoPod) -> None:
    """A model that repeats itself goes on to the bound, which no speech reaches."""
    pod.engine.finish = "length"
    form = aiohttp.FormData({"model": "echo"})
    form.add_field("file", io.BytesIO(WAV), filename="a.wav")
    async with pod.client.post(pod.url + PATH, data=form) as response:
        assert (await response.json())["finish_reason"] == "length"
        assert response.headers["X-AMS-Finish-Reason"] == "length"
    cap = pod.engine.tickets[0].sampling.max_new_tokens
    assert cap == 128 + 2 * 40


async def test_a_cap_for_answers_is_none_for_transcripts(tmp_path: Path) -> None:
    async with echo_pod(tmp_path, "audio-language", max_new_tokens=8) as pod:
        form = aiohttp.FormData({"model": "echo"})
        form.add_field("file", io.BytesIO(WAV), filename="a.wav")
        async with pod.client.post(pod.url + PATH, data=form) as response:
            assert (await response.json())["text"] == SAID


async def test_a_window_that_fails_fails_the_request(pod: EchoPod) -> None:
    pod.engine.error = RuntimeError("broken")
    form = aiohttp.FormData({"model": "echo"})
    form.add_field("file", io.BytesIO(LONG), filename="a.wav")
    assert await _send(pod, form) == (500, "generation_failed", None)
    assert pod.pod.active == 0


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"response_format": "diarized_json"}, "allowed: json, srt, text, verbose_json, vtt"),
        ({"response_format": "srt", "stream": True}, "srt can't be streamed"),
        ({"response_format": "verbose_json", "timestamp_granularities": ["word"]}, "timestamp_granularities"),
        (
            {"response_format": "verbose_json", "timestamp_granularities": ["segment", "word"]},
            "timestamp_granularities",
        ),
    ],
)
async def test_forms_of_answers_that_are_not_there(client: openai.AsyncOpenAI, fields: Any, says: str) -> None:
    with pytest.raises(openai.BadRequestError, match=says) as caught:
        await client.audio.transcriptions.create(model="echo", file=("a.wav", WAV), **fields)
    assert caught.value.code == "invalid_parameter"


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
