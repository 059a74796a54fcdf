"""/v1/responses and /v1/messages through the gateway: conversations that it remembers, errors in each API's shape."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from ams_common.errors import ApiError
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry
from test_gateway.redis_server import redis_server
from test_gateway.test_keys import KEYS, TEAM, door_of, stored

StartPod = Callable[..., Awaitable[FakePod]]
NUMBERS = itertools.count(1)


async def respond(exchange: Exchange) -> None:
    """Answers as a pod does: with how many items it was given, and the last of them."""
    body = json.loads(exchange.request.body)
    given = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    items = [*body.get("previous_items", []), *given]
    text, number = f"{len(items)} items", f"{next(NUMBERS):048x}"
    if any(item.get("type") == "item_reference" for item in items):
        await exchange.json(400, {"error": {"message": "There are references.", "code": "invalid_parameter"}})
        return
    response: dict[str, Any] = {
        "id": f"resp_{number}", "object": "response", "created_at": 1, "status": "completed", "model": "m",
        "output": [{"type": "message", "id": f"msg_{number}0001", "status": "completed", "role": "assistant",
                    "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]}],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
        "previous_response_id": body.get("previous_response_id"), "instructions": body.get("instructions"),
    }  # fmt: skip
    if not body.get("stream"):
        await exchange.json(200, response, X_AMS_Usage="prompt=3 completion=2")
        return
    await exchange.start_stream()
    delta = {"type": "response.output_text.delta", "sequence_number": 0, "item_id": "msg_1", "output_index": 0,
             "content_index": 0, "delta": text, "logprobs": []}  # fmt: skip
    await exchange.chunk(f"event: {delta['type']}\ndata: {json.dumps(delta)}\n\n".encode())
    last = {"type": "response.completed", "sequence_number": 1, "response": response}
    data = f"event: response.completed\ndata: {json.dumps(last)}\n\n".encode()
    await exchange.chunk(data[:50])
    await exchange.chunk(data[50:] + b": usage prompt=3 completion=2\n\n")
    await exchange.end_stream()


@pytest.fixture
async def running(start: Start, pod: StartPod, registry: FakeRegistry) -> Running:
    registry.add("m", (await pod(respond)).address)
    return await start(registry)


def client_of(running: Running, key: str = "none") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=running.url + "/v1", api_key=key, max_retries=0)


async def test_a_conversation_goes_on_plain_and_streamed(running: Running) -> None:
    async with client_of(running) as client:
        first = await client.responses.create(model="m", input="hi")
        assert first.output_text == "1 items"
        second = await client.responses.create(
            model="m", input=[{"role": "user", "content": "and?"}], previous_response_id=first.id
        )
        assert second.output_text == "3 items"
        stream = await client.responses.create(model="m", input="so?", previous_response_id=second.id, stream=True)
        third = [event async for event in stream][-1]
        assert third.type == "response.completed"
        assert third.response.output_text == "5 items"
        again = await client.responses.create(model="m", input="else?", previous_response_id=first.id)  # a branch
        assert again.output_text == "3 items"
        last = await client.responses.create(model="m", input="x", previous_response_id=third.response.id)
        assert last.output_text == "7 items"


async def test_items_may_be_named(running: Running) -> None:
    """As Vercel's AI SDK goes on, which sends what a server keeps by its id alone."""
    async with client_of(running) as client:
        first = await client.responses.create(model="m", input="hi")
        said = first.output[0]
        items: Any = [{"role": "user", "content": "hi"}, {"type": "item_reference", "id": said.id}]
        second = await client.responses.create(model="m", input=[*items, {"role": "user", "content": "and?"}])
        assert second.output_text == "3 items"
        listed = [item async for item in client.responses.input_items.list(second.id, order="asc")]
        assert listed[1].content[0].text == "1 items"  # type: ignore[union-attr, index]
        for unknown in ("msg_1", f"msg_{'0' * 52}", said.id + "0", "../x"):
            items[1]["id"] = unknown
            with pytest.raises(openai.NotFoundError) as caught:
                await client.responses.create(model="m", input=items)
            assert (caught.value.code, caught.value.param) == ("response_not_found", "input[1].id")


async def test_responses_are_given_again_listed_and_forgotten(running: Running) -> None:
    async with client_of(running) as client:
        first = await client.responses.create(model="m", input="hi")
        second = await client.responses.create(model="m", input="and?", previous_response_id=first.id)
        assert (await client.responses.retrieve(second.id)).output_text == "3 items"
        items = [item async for item in client.responses.input_items.list(second.id, order="asc", limit=2)]
        assert [item.content[0].text for item in items] == ["hi", "1 items", "and?"]  # type: ignore[union-attr, index]
        newest = await client.responses.input_items.list(second.id, limit=1)
        assert newest.has_more
        assert newest.data[0].content[0].text == "and?"  # type: ignore[union-attr, index]
        await client.responses.delete(first.id)
        for call in (client.responses.retrieve(first.id), client.responses.delete(first.id)):
            with pytest.raises(openai.NotFoundError) as caught:
                await call
            assert caught.value.code == "response_not_found"
        with pytest.raises(openai.NotFoundError) as caught:
            await client.responses.create(model="m", input="x", previous_response_id=second.id)
        assert caught.value.code == "previous_response_not_found"
        assert caught.value.param == "previous_response_id"
        for query in ("?order=up", "?limit=0", "?limit=x"):
            async with running.client.get(f"{running.url}/v1/responses/{second.id}/input_items{query}") as response:
                assert response.status in (400, 404)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_not_to_be_stored_is_not(running: Running, stream: bool) -> None:
    async with client_of(running) as client:
        if stream:
            events = [e async for e in await client.responses.create(model="m", input="a", store=False, stream=True)]
            response: Any = events[-1].response  # type: ignore[union-attr]
        else:
            response = await client.responses.create(model="m", input="a", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(response.id)


async def test_a_key_has_its_own(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    door = door_of(tmp_path, type(KEYS)(keys=(*KEYS.keys, stored("two", "ams-key-two"))))
    registry.add("qwen", (await pod(respond)).address)
    running = await start(registry, door=door)
    async with client_of(running, TEAM) as mine, client_of(running, "ams-key-two") as theirs:
        first = await mine.responses.create(model="qwen", input="secret")
        for call in (
            theirs.responses.retrieve(first.id),
            theirs.responses.delete(first.id),
            theirs.responses.create(model="qwen", input="x", previous_response_id=first.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await call
        assert (await mine.responses.retrieve(first.id)).id == first.id
    async with running.client.get(f"{running.url}/v1/responses/{first.id}") as response:
        assert response.status == 401


async def test_large_inputs_go_on_too(running: Running) -> None:
    """A body above 1 MiB lies in a file; what it goes on from is put in front of it there."""
    image = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * (2 << 20)}
    large: Any = [{"role": "user", "content": [image]}]
    async with client_of(running) as client:
        first = await client.responses.create(model="m", input=large)
        second = await client.responses.create(model="m", input=large, previous_response_id=first.id)
        assert second.output_text == "3 items"
        third = await client.responses.create(model="m", input="x", previous_response_id=second.id)
        assert third.output_text == "5 items"
        huge: Any = [{"role": "user", "content": [image] * 4}]
        unkept = await client.responses.create(model="m", input=huge)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(unkept.id)


async def test_a_long_answer_is_kept_as_it_passes(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    """One that goes to the client piece by piece."""

    async def say_much(exchange: Exchange) -> None:
        response = {"id": f"resp_{next(NUMBERS):048x}", "output": [], "instructions": "x" * 600_000}
        await exchange.json(200, response)

    registry.add("m", (await pod(say_much)).address)
    async with client_of(await start(registry)) as client:
        first = await client.responses.create(model="m", input="hi")
        assert (await client.responses.retrieve(first.id)).instructions == "x" * 600_000


async def test_two_gateways_with_one_redis(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    registry.add("m", (await pod(respond)).address)
    with redis_server(tmp_path) as server:
        first, second = await start(registry, redis_url=server.url), await start(registry, redis_url=server.url)
        async with client_of(first) as one, client_of(second) as other:
            response = await one.responses.create(model="m", input="hi")
            on = await other.responses.create(model="m", input="and?", previous_response_id=response.id)
            assert on.output_text == "3 items"
            stream = await other.responses.create(model="m", input="so?", previous_response_id=on.id, stream=True)
            last: Any = [event async for event in stream][-1]
            back = await one.responses.create(model="m", input="x", previous_response_id=last.response.id)
            assert back.output_text == "7 items"


async def test_a_stream_that_is_cut_is_not_kept(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n')
        exchange.cut()

    registry.add("m", (await pod(cut)).address)
    async with client_of(await start(registry)) as client:
        stream = await client.responses.create(model="m", input="hi", stream=True)
        with pytest.raises(openai.APIError) as caught:
            [event async for event in stream]
        assert caught.value.code == "backend_failed"


async def test_media_are_refused_before_a_pod_sees_them(start: Start, pod: StartPod, registry: FakeRegistry) -> None:
    backend = await pod(respond)
    registry.add("m", backend.address, modalities=frozenset({"text"}))
    running = await start(registry)
    image = {"type": "input_image", "image_url": "data:,"}
    status, body, _ = await running.post(
        "/v1/responses", {"model": "m", "input": [{"role": "user", "content": [image]}]}
    )
    assert (status, body["error"]["code"]) == (422, "unsupported_modality")
    block = {"type": "image", "source": {"type": "url", "url": "x"}}
    status, body, _ = await running.post(
        "/v1/messages", {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [block]}]}
    )
    assert (status, body["type"], body["error"]["code"]) == (422, "error", "unsupported_modality")
    assert backend.received == []


MESSAGE: dict[str, Any] = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


async def say(exchange: Exchange) -> None:
    usage = {"input_tokens": 3, "output_tokens": 2}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
               "stop_sequence": None, "usage": usage}  # fmt: skip
    if exchange.request.target == "/v1/messages/count_tokens":
        await exchange.json(200, {"input_tokens": 3})
        return
    if not json.loads(exchange.request.body).get("stream"):
        text = [{"type": "text", "text": "hello"}]
        await exchange.json(200, message | {"content": text, "stop_reason": "end_turn"}, X_AMS_Answer_Version="v1")
        return
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage},
        {"type": "message_stop"},
    ]
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-AMS-Answer-Version: v1\r\n"
    await exchange.send(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
    for event in events:
        await exchange.chunk(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode())
    await exchange.chunk(b": usage prompt=3 completion=2\n\n")
    await exchange.end_stream()


def claude(running: Running, key: str = "none") -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(base_url=running.url, api_key=key, max_retries=0)


async def test_anthropics_client(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    """Its key comes as X-API-Key, and its query of betas ends here."""
    backend = await pod(say)
    registry.add("qwen", backend.address, aliases=("claude-sonnet-5",))
    running = await start(registry, door=door_of(tmp_path, KEYS))
    async with claude(running, TEAM) as client:
        model = "claude-sonnet-5"
        message = await client.messages.create(**MESSAGE | {"model": model})
        assert message.content[0].text == "hello"  # type: ignore[union-attr]
        async with client.messages.stream(**MESSAGE | {"model": model}) as stream:
            assert [text async for text in stream.text_stream] == ["hello"]
        beta: Any = MESSAGE | {"model": model}
        assert (await client.beta.messages.create(**beta)).stop_reason == "end_turn"
        counted = await client.messages.count_tokens(model=model, messages=MESSAGE["messages"])
        assert counted.input_tokens == 3
    targets = [each.target for each in backend.received]
    assert targets == ["/v1/messages"] * 3 + ["/v1/messages/count_tokens"]
    async with claude(running, "wrong") as client:
        with pytest.raises(anthropic.AuthenticationError) as caught:
            await client.messages.create(**MESSAGE)
        body: Any = caught.value.body
        assert (body["type"], body["error"]["type"]) == ("error", "authentication_error")
        assert caught.value.request_id == body["request_id"] or body["request_id"]


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "code"),
    [
        ("/v1/messages", b"{", 400, "invalid_request_error", "invalid_json"),
        ("/v1/messages", b'{"model":"nope","messages":[]}', 404, "not_found_error", "model_not_found"),
        ("/v1/messages", b'{"model":"m"' + b" " * 70_000 + b"}", 413, "request_too_large", "body_too_large"),
        ("/v1/messages/count_tokens", b"[]", 400, "invalid_request_error", "invalid_parameter"),
        ("/v1/v1/messages", b"{}", 404, "not_found_error", "not_found"),
        ("/messages", b"{}", 404, "not_found_error", "not_found"),
    ],
)
async def test_errors_are_anthropics(
    start: Start, registry: FakeRegistry, path: str, body: bytes, status: int, kind: str, code: str
) -> None:
    registry.add("m", max_body_bytes=65536)
    running = await start(registry)
    got, told, headers = await running.post(path, body)
    assert (got, told["type"], told["error"]["type"], told["error"]["code"]) == (status, "error", kind, code)
    assert told["request_id"] == headers["X-Request-Id"]
    if code == "not_found":
        assert "Call /v1/messages: Anthropic's clients take a base URL without /v1" in told["error"]["message"]


async def test_errors_in_a_stream_are_raised_by_both_clients(start: Start, registry: FakeRegistry) -> None:
    """While a model starts, a stream is open already: then all that fails travels in it."""
    entry = registry.add("m")
    running = await start(registry)

    async def fail_soon() -> None:
        await entry.demanded.wait()
        await asyncio.sleep(1.5)
        registry.fail("m", ApiError("model_failed", "It doesn't load."))

    async with claude(running) as anthropics, client_of(running) as openais:
        failing = asyncio.create_task(fail_soon())
        with pytest.raises(anthropic.APIStatusError) as caught:
            async with anthropics.messages.stream(**MESSAGE) as stream:
                await stream.get_final_message()
        assert "It doesn't load." in str(caught.value)
        await failing
        entry.failure = None
        entry.demanded.clear()
        failing = asyncio.create_task(fail_soon())
        with pytest.raises(openai.APIError) as raised:
            [event async for event in await openais.responses.create(model="m", input="x", stream=True)]
        assert raised.value.code == "model_failed"
        await failing


async def test_kept_answers_of_messages_are_given_again_and_responses_are_not(
    start: Start, pod: StartPod, registry: FakeRegistry
) -> None:
    from test_gateway.test_answers import KEEP

    registry.add("m", (await pod(say)).address, answers=KEEP)
    registry.add("r", (await pod(respond)).address, answers=KEEP)
    running = await start(registry)
    for body in (MESSAGE | {"temperature": 0}, MESSAGE | {"temperature": 0, "stream": True}):
        told = []
        for _ in range(2):
            async with running.client.post(running.url + "/v1/messages", json=body) as response:
                told.append((response.headers["X-AMS-Cache"], await response.read()))
        assert [found for found, _ in told] == ["miss", "hit"]
        assert told[0][1] == told[1][1]
    ids = set()
    for _ in range(2):
        _, answer, headers = await running.post("/v1/responses", {"model": "r", "input": "hi", "temperature": 0})
        assert "X-AMS-Cache" not in headers
        ids.add(answer["id"])
    assert len(ids) == 2
