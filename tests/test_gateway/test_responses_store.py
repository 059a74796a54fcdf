"""Responses that are kept: for whom, for how long, how many, and in Redis for all gateways."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ams_common.errors import ApiError
from ams_gateway.redis_link import RedisLink
from ams_gateway.responses.kept import KeptResponse, as_items, items_of, listed, response_of
from ams_gateway.responses.memory import ResponseMemory
from ams_gateway.responses.recording import ResponseRecorder, last_response
from ams_gateway.responses.store import MemoryStore, SharedStore
from test_gateway.redis_server import redis_server


def id_of(number: int) -> str:
    return f"resp_{number:048x}"


def kept(number: int, *previous: int, size: int = 0, output: str = "out") -> KeptResponse:
    message = {"type": "message", "role": "assistant", "content": f"{output} {number}"}
    response = json.dumps({"id": id_of(number), "output": [message], "filling": "x" * size}).encode()
    given = json.dumps([{"role": "user", "content": f"in {number}"}]).encode()
    made = response_of(response, given, [id_of(each) for each in previous])
    assert made is not None
    return made


def store(most_bytes: int = 1 << 20, seconds: float = 10.0, now: list[float] | None = None) -> MemoryStore:
    times = now or [0.0]
    return MemoryStore(seconds=seconds, most_bytes=most_bytes, clock=lambda: times[0])


def contents(items: bytes) -> list[str]:
    return [item["content"] for item in json.loads(items)]


async def test_nobody_finds_anothers() -> None:
    memory = store()
    memory.note("a", kept(1))
    assert await memory.get("a", id_of(1)) is not None
    assert await memory.get("b", id_of(1)) is None
    assert not await memory.delete("b", id_of(1))
    assert await memory.delete("a", id_of(1))
    assert await memory.get("a", id_of(1)) is None
    assert memory.size == 0


async def test_what_is_used_lives_on() -> None:
    now = [0.0]
    memory = store(now=now)
    memory.note("a", kept(1))
    memory.note("a", kept(2))
    now[0] = 9.0
    assert await memory.get("a", id_of(1)) is not None
    now[0] = 10.0
    assert [await memory.get("a", id_of(number)) is not None for number in (1, 2)] == [True, False]
    now[0] = 20.0
    memory.tidy()
    assert (await memory.get("a", id_of(1)), memory.size) == (None, 0)


async def test_who_holds_most_makes_room() -> None:
    memory = store(most_bytes=20_000)
    memory.note("small", kept(100, size=1000))
    for number in range(10):
        memory.note("large", kept(number, size=3000))
    assert memory.size <= 20_000
    assert await memory.get("small", id_of(100)) is not None
    assert [await memory.get("large", id_of(number)) is not None for number in range(10)] == [False] * 6 + [True] * 4
    memory.note("small", kept(7, size=30_000))
    assert await memory.get("small", id_of(7)) is None
    memory.note("small", kept(100, size=1000))
    assert memory.size <= 20_000


async def test_a_store_of_no_bytes_keeps_nothing() -> None:
    memory = store(most_bytes=0)
    memory.note("a", kept(1))
    assert await memory.get("a", id_of(1)) is None


@pytest.mark.parametrize(
    ("given", "items"),
    [(b'"hi"', [{"role": "user", "content": "hi"}]), (b"[]", []), (b"", []), (b'""', []), (b'[{"a":1}]', [{"a": 1}])],
)
def test_input_as_items(given: bytes, items: Any) -> None:
    assert json.loads(as_items(given)) == items


def test_a_chain_is_all_that_was_said() -> None:
    chain = [kept(1), kept(2, 1), kept(3, 1, 2)]
    assert contents(items_of(chain)) == ["in 1", "out 1", "in 2", "out 2", "in 3", "out 3"]
    assert items_of([]) == b"[]"
    items = listed(chain[2], chain[:2])
    assert [item["content"][0]["text"] for item in items] == ["in 1", "out 1", "in 2", "out 2", "in 3"]
    assert len({item["id"] for item in items}) == 5
    assert [item["content"][0]["type"] for item in items[:2]] == ["input_text", "output_text"]


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b'{"id":7}', b'{"id":"../x"}', b'{"id":"resp_"}', b'{"id":"resp_' + b"a" * 70]
)
def test_what_is_no_response_is_not_kept(body: bytes) -> None:
    assert response_of(body, b"[]", ()) is None


async def test_a_chain_with_a_hole_can_not_be_gone_on_from() -> None:
    shelf = store()
    memory = ResponseMemory(shelf, seconds=10, most_bytes=1 << 20)
    for each in (kept(1), kept(2, 1), kept(3, 1, 2)):
        shelf.note("a", each)
    assert (await memory.chain("a", id_of(3))).ids == (id_of(1), id_of(2), id_of(3))
    await memory.delete("a", id_of(2))
    assert (await memory.chain("a", id_of(1))).ids == (id_of(1),)
    for missing in (id_of(3), id_of(2), "resp_nonsense", "../../x", ""):
        with pytest.raises(ApiError) as caught:
            await memory.chain("a", missing)
        assert (caught.value.status, caught.value.code) == (404, "previous_response_not_found")
    for call in (memory.find("a", id_of(2)), memory.delete("a", id_of(2))):
        with pytest.raises(ApiError) as caught:
            await call
        assert (caught.value.status, caught.value.code) == (404, "response_not_found")


def event(kind: str, response: Any) -> bytes:
    data = {"type": kind, "sequence_number": 9, "response": response}
    return f"event: {kind}\ndata: ".encode() + msgspec.json.encode(data) + b"\n\n"


def test_a_stream_is_read_at_its_end() -> None:
    response = {"id": id_of(1), "output": [{"content": 'event: response.completed\ndata: {"response":'}]}
    taken: list[Any] = []
    recorder = ResponseRecorder(1000, lambda body: taken.append(json.loads(body)))
    recorder.begin(200, {}, "", stream=True)
    recorder.feed(event("response.created", response))
    recorder.feed(b'event: response.output_text.delta\ndata: {"delta":"event: response.completed\\ndata: "}\n\n')
    assert taken == []
    recorder.feed(b": comment\n\n" + event("response.completed", response) + b": usage prompt=1 completion=1\n\n")
    recorder.end()
    assert taken == [response]
    assert json.loads(last_response(event("response.incomplete", response)) or b"") == response
    assert last_response(b"event: response.completed\ndata: {}\n\n") is None
    assert last_response(b"event: response.completed\n\n") is None


def test_a_plain_answer_is_read_whole() -> None:
    taken: list[bytes] = []
    recorder = ResponseRecorder(10, taken.append)
    for status, parts, kept_ in ((200, (b"12345", b"678"), True), (500, (b"1",), False), (200, (b"1" * 11,), False)):
        taken.clear()
        recorder.begin(status, {}, "", stream=False)
        for part in parts:
            recorder.feed(part)
        assert not taken
        recorder.end()
        assert taken == ([b"".join(parts)] if kept_ else [])


async def test_what_one_gateway_keeps_another_finds(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        links = [RedisLink(server.url), RedisLink(server.url)]
        for link in links:
            await link.start()
        first, second = (SharedStore(link, store(seconds=60, most_bytes=8 << 20)) for link in links)
        try:
            for each in (kept(1), kept(2, 1, size=500_000)):  # the second in parts
                first.note("a", each)
                await first.share("a", each)
            memory = ResponseMemory(second, seconds=60, most_bytes=8 << 20)
            chain = await memory.chain("a", id_of(2))
            assert contents(chain.items()) == ["in 1", "out 1", "in 2", "out 2"]
            assert await second.get("b", id_of(1)) is None
            with server.client() as client:
                names = sorted(client.keys("*:response:*"))
                assert all(0 < client.ttl(name) <= 60 for name in names)
                assert len(names) > 5
                assert b"a" not in {name.split(b":")[2] for name in names}  # whose it is can't be read
                part = next(name for name in names if name.endswith(id_of(2).encode() + b":1"))
                client.set(part, b'"')
            third = SharedStore(links[1], store(seconds=60))
            assert await third.get("a", id_of(2)) is None
            assert await second.delete("a", id_of(1))
            assert not await second.delete("a", id_of(1))
            server.kill()
            assert await first.get("a", id_of(2)) is not None  # this gateway goes on without Redis
            await first.share("a", kept(3))
            assert not await first.delete("a", id_of(9))
        finally:
            for link in links:
                await link.close()
