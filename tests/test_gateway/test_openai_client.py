"""OpenAI's own Python client against /v1: what it reads, and which of its exceptions each failure raises."""

import asyncio
import json

import openai
import pytest
from ams_common.errors import ApiError
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakeRegistry

MESSAGES = [{"role": "user", "content": "hi"}]


def _chunk(text: str) -> bytes:
    value = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(value).encode() + b"\n\n"


async def _chat(exchange: Exchange) -> None:
    if exchange.request.target == "/v1/models":
        await exchange.json(200, {"data": [{"id": "m", "max_model_len": 4096}]})
        return
    if not json.loads(exchange.request.body).get("stream"):
        message = {"role": "assistant", "content": "hello"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await exchange.json(
            200, {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )
        return
    await exchange.start_stream()
    for text in ("a", "b"):
        await exchange.chunk(_chunk(text))
    await exchange.chunk(b": usage prompt=1 completion=2\n\ndata: [DONE]\n\n")
    await exchange.end_stream()


def _client(running: Running, **options) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.url + "/v1", api_key="none", max_retries=0, **options)


async def test_chat_stream_and_models(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod(_chat)
    registry.add("m", backend.address, created=7)
    registry.add("another")
    async with _client(await start(registry)) as client:
        answer = await client.chat.completions.create(model="m", messages=MESSAGES)
        assert answer.choices[0].message.content == "hello"
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["a", "b"]
        assert [model.id async for model in client.models.list()] == ["another", "m"]
        assert (await client.models.retrieve("m")).created == 7


async def test_progress_comments_are_invisible(start: Start, pod, registry: FakeRegistry, monkeypatch) -> None:
    monkeypatch.setattr("ams_gateway.proxy.hold._SILENCE_BEFORE_PROGRESS_SECONDS", 0.0)
    backend = await pod(_chat)
    entry = registry.add("m")
    async with _client(await start(registry)) as client:
        request = asyncio.create_task(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
        await entry.demanded.wait()
        stream = await request
        registry.add_backend("m", backend.address)
        assert [chunk.choices[0].delta.content async for chunk in stream] == ["a", "b"]


async def test_a_pod_killed_mid_stream_raises(start: Start, pod, registry: FakeRegistry) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(_chunk("a") + _chunk("b")[:20])
        exchange.cut()

    backend = await pod(cut)
    registry.add("m", backend.address)
    async with _client(await start(registry)) as client:
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        assert (await anext(stream)).choices[0].delta.content == "a"
        with pytest.raises(openai.APIError, match="ended in the middle"):
            await anext(stream)


@pytest.mark.parametrize(
    ("code", "exception"),
    [
        ("invalid_parameter", openai.BadRequestError),
        ("model_not_found", openai.NotFoundError),
        ("unsupported_modality", openai.UnprocessableEntityError),
        ("queue_full", openai.RateLimitError),
        ("generation_failed", openai.InternalServerError),
    ],
)
async def test_its_error_classes(
    start: Start, pod, registry: FakeRegistry, code: str, exception: type[openai.APIStatusError]
) -> None:
    error = ApiError(code, "No.", param="x")
    backend = await pod(lambda e: e.answer(error.status, error.body("/v1", "i"), Content_Type="application/json"))
    registry.add("m", backend.address)
    async with _client(await start(registry)) as client:
        with pytest.raises(exception) as caught:
            await client.chat.completions.create(model="m", messages=MESSAGES)
    assert (caught.value.code, caught.value.param) == (code, "x")


async def test_an_unknown_model(start: Start, registry: FakeRegistry) -> None:
    async with _client(await start(registry)) as client:
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="gpt-5", messages=MESSAGES)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("gpt-5")


async def test_it_retries_a_loading_model_but_not_a_failed_one(start: Start, registry: FakeRegistry) -> None:
    registry.add("m")
    registry.fail("m", ApiError("model_failed", "The weights are gone."))
    running = await start(registry)
    async with _client(running).with_options(max_retries=3) as client:
        with pytest.raises(openai.InternalServerError, match="weights are gone"):
            await client.chat.completions.create(model="m", messages=MESSAGES)
    assert 'code="503",model="m",route="/v1/chat/completions"} 1.0' in await running.metrics()
