"""`/v1/audio/transcriptions`: a form finds its model, and reaches the pod byte by byte."""

import asyncio
import io
import mmap
import os
import tempfile
from pathlib import Path

import aiohttp
import openai
import pytest
from ams_common.errors import ApiError
from ams_gateway.front.form import boundary_of, texts_of
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry

PATH = "/v1/audio/transcriptions"


def _form(*fields: tuple[str, bytes], file: bytes = b"sound", first: bool = False) -> aiohttp.FormData:
    form = aiohttp.FormData()
    if first:
        form.add_field("file", io.BytesIO(file), filename="a.wav", content_type="audio/wav")
    for name, value in fields:
        form.add_field(name, value.decode())
    if not first:
        form.add_field("file", io.BytesIO(file), filename="a.wav", content_type="audio/wav")
    return form


async def _write_down(exchange: Exchange) -> None:
    await exchange.json(200, {"text": "hello", "usage": {"type": "tokens", "input_tokens": 1, "output_tokens": 1,
                                                         "total_tokens": 2}})  # fmt: skip


async def _post(running: Running, form: aiohttp.FormData) -> tuple[int, dict]:
    async with running.client.post(running.url + PATH, data=form) as response:
        return response.status, await response.json()


async def test_openais_client(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod(_write_down)
    registry.add("m", backend.address, modalities=frozenset({"text", "audio"}))
    running = await start(registry)
    async with openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0) as client:
        answer = await client.audio.transcriptions.create(model="m", file=("a.wav", b"RIFFsound"), language="en")
    assert answer.text == "hello"
    received = backend.received[0]
    assert received.target == PATH
    assert received.headers["content-type"].startswith("multipart/form-data; boundary=")
    assert b"RIFFsound" in received.body


@pytest.mark.parametrize("first", [True, False])
async def test_large_files_are_spooled(start: Start, pod, registry: FakeRegistry, first: bool, tmp_path: Path) -> None:
    backend = await pod(_write_down)
    registry.add("m", backend.address)
    running = await start(registry, spool_dir=str(tmp_path))
    sound = bytes(range(256)) * (3 << 12)
    status, _ = await _post(running, _form(("model", b"m"), file=sound, first=first))
    assert status == 200
    assert sound in backend.received[0].body
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [10, 2 << 20])
async def test_what_is_refused(start: Start, pod, registry: FakeRegistry, size: int) -> None:
    backend = await pod(_write_down)
    registry.add("texts", backend.address, modalities=frozenset({"text"}))
    registry.add("m", backend.address, modalities=frozenset({"audio"}))
    running = await start(registry)
    sound = bytes(size)
    for fields, expected, code in [
        ([("model", b"texts")], 422, "unsupported_modality"),
        ([("model", b"gpt-5")], 404, "model_not_found"),
        ([], 400, "invalid_parameter"),
        ([("model", b" ")], 400, "invalid_parameter"),
        ([("model", b"m" * 70_000)], 400, "invalid_parameter"),
    ]:
        status, body = await _post(running, _form(*fields, file=sound))
        assert (status, body["error"]["code"]) == (expected, code), fields
    assert backend.received == []


async def test_it_must_be_a_form(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    status, body, headers = await running.post(PATH, {"model": "m"})
    assert (status, body["error"]["code"], headers["Accept"]) == (415, "unsupported_media_type", "multipart/form-data")
    status, body, _ = await running.post(PATH, b"", headers={"Content-Type": "multipart/form-data"})
    assert (status, body["error"]["code"]) == (400, "invalid_parameter")
    assert "boundary" in body["error"]["message"]


async def test_streams_of_cold_models_begin_with_progress(
    start: Start, pod, registry: FakeRegistry, monkeypatch
) -> None:
    monkeypatch.setattr("ams_gateway.proxy.hold._SILENCE_BEFORE_PROGRESS_SECONDS", 0.0)
    backend = await pod(_write_down)
    entry = registry.add("m")
    running = await start(registry)
    form = _form(("model", b"m"), ("stream", b"true"))
    request = asyncio.create_task(running.client.post(running.url + PATH, data=form))
    await entry.demanded.wait()
    async with await request as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        registry.add_backend("m", backend.address)
        assert b"hello" in await response.read()


NAMES = ("model", "stream")


def _body(*parts: tuple[str, str]) -> bytes:
    return b"".join(f"--b\r\n{head}\r\n\r\n{text}\r\n".encode() for head, text in parts) + b"--b--\r\n"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (_body(('Content-Disposition: form-data; name="model"', "m"),), {"model": "m"}),
        (_body(("content-disposition: form-data; name=model", "m")), {"model": "m"}),
        (_body(('Content-Disposition: form-data; name="model"', "m"), ('X: y; name="model"', "n")), {"model": "m"}),
        (_body(('Content-Disposition: form-data; name="file"; filename="model"', "x"),
               ('Content-Type: text/plain\r\nContent-Disposition: form-data; name="stream"', "true")),
         {"stream": "true"}),
        (_body(('Content-Disposition: form-data; filename="model"', "x")), {}),
        (b"", {}),
        (b"--b", {}),
        (b"--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm", {}),
        (b"no form at all", {}),
    ],
)  # fmt: skip
def test_texts_of_a_form(body: bytes, found: dict[str, str], tmp_path: Path) -> None:
    assert texts_of(body, b"b", NAMES) == found
    if body:
        with tempfile.TemporaryFile(dir=tmp_path) as file:
            file.write(body)
            file.flush()
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
                assert texts_of(pages, b"b", NAMES) == found


def test_boundaries() -> None:
    assert boundary_of("multipart/form-data; boundary=abc") == b"abc"
    assert boundary_of('Multipart/Form-Data; charset=utf-8; boundary="a b"') == b"a b"
    for wrong in (None, "", "application/json", "multipart/form-data", "multipart/mixed; boundary=x"):
        with pytest.raises(ApiError):
            boundary_of(wrong)


@pytest.mark.parametrize("size", [0, 1_100_000])
async def test_a_form_without_a_file_wakes_no_model(start: Start, registry: FakeRegistry, size: int) -> None:
    entry = registry.add("m")
    running = await start(registry, hold_seconds=0.01)
    without = aiohttp.FormData({"model": "m"})
    without.add_field("other", io.BytesIO(b"x" * size), filename="a.wav")
    status, answer = await _post(running, without)
    assert (status, answer["error"]["param"]) == (400, "file")
    assert not entry.demanded.is_set()
    assert (await _post(running, _form(("model", b"m"), file=b"x" * size)))[0] == 503
    assert entry.demanded.is_set()
