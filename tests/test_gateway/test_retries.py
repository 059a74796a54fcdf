"""What is sent again, what never is, and what the client sees when a pod fails."""

import asyncio

import aiohttp
import pytest
from ams_common.errors import ApiError
from test_gateway.conftest import Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry, say_hello

DRAINING = ApiError("draining", "The model is stopping.", retry_after=1)


async def test_a_stale_connection_under_a_post_is_never_an_error(start: Start, pod, registry: FakeRegistry) -> None:
    """The pod closes a kept connection in the moment the gateway sends on it."""
    answered = 0

    async def close_after_one(exchange: Exchange) -> None:
        nonlocal answered
        if backend.connections == 1 and answered == 1:
            exchange.cut()
            return
        answered += 1
        await say_hello(exchange)

    backend = await pod(close_after_one)
    registry.add("m", backend.address)
    running = await start(registry)
    for _ in range(2):
        assert (await running.post("/generate/m", {"prompt": "x"}))[0] == 200
    assert [received.body for received in backend.received] == [b'{"prompt":"x"}'] * 3
    assert backend.connections == 2
    assert 'ams_gateway_retries_total{model="m",reason="stale_connection"} 1.0' in await running.metrics()


async def test_a_request_that_ended_two_pods_is_not_sent_to_a_third(start: Start, pod, registry: FakeRegistry) -> None:
    """It may be what ends them."""
    pods = [await pod(_close) for _ in range(3)]
    registry.add("m", *(each.address for each in pods))
    running = await start(registry)
    status, answer, _ = await running.post("/generate/m", {})
    assert (status, answer["details"]["code"]) == (502, "backend_failed")
    assert sorted(len(each.received) for each in pods) == [0, 1, 1]


async def test_a_request_that_ends_the_pod_that_is_started_again_is_not_tried_a_third_time(
    start: Start, pod, registry: FakeRegistry
) -> None:
    backend = await pod(_close)
    entry = registry.add("m", backend.address)
    running = await start(registry)
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "again"}))
    while not backend.received:  # noqa: ASYNC110
        await asyncio.sleep(0)
    entry.backends.clear()
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    status, answer, _ = await request
    assert (status, answer["details"]["code"]) == (502, "backend_failed")
    assert len(backend.received) == 2


async def test_a_pod_on_its_way_down_ends_once_however_many_connections_it_breaks(
    start: Start, pod, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed process may take another connection before its socket is closed."""
    monkeypatch.setattr("ams_gateway.proxy.upstream._STALE_SECONDS", 0.0)

    async def close_the_second(exchange: Exchange) -> None:
        await (say_hello if len(backend.received) in (1, 4) else _close)(exchange)

    backend = await pod(close_the_second)
    registry.add("m", backend.address)
    running = await start(registry)
    assert (await running.post("/generate/m", {}))[0] == 200
    status, _, _ = await running.post("/generate/m", {})
    assert (status, len(backend.received)) == (200, 4)


async def test_connections_closed_while_idle_are_not_used(start: Start, pod, registry: FakeRegistry) -> None:
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    assert (await running.post("/generate/m", {}))[0] == 200
    backend.drop_connections()
    assert (await running.post("/generate/m", {}))[0] == 200
    assert len(backend.received) == 2


async def test_a_large_body_goes_over_a_new_connection(start: Start, pod, registry: FakeRegistry) -> None:
    """It can't be sent again, so it must not meet a stale connection."""
    backend = await pod()
    registry.add("m", backend.address)
    running = await start(registry)
    await running.post("/generate/m", {})
    async with running.client.post(
        running.url + "/generate/m", data=_pieces(3), headers={"Content-Type": "application/json"}
    ) as response:
        assert response.status == 200
    assert backend.connections == 2
    assert len(backend.received[1].body) == 3 << 20


async def _pieces(mebibytes: int):
    """A JSON text of this size."""
    for number in range(mebibytes * 16):
        yield (b'"' if number == 0 else b"x") + b"x" * 65534 + (b'"' if number == mebibytes * 16 - 1 else b"x")


async def test_a_refused_connection_goes_to_another_pod(start: Start, pod, registry: FakeRegistry) -> None:
    gone, there = await pod(), await pod()
    await gone.stop()
    registry.add("m", gone.address, there.address)
    registry.entries["m"].backends[1].in_flight = 1  # so that the dead one is the first choice
    running = await start(registry)
    assert (await running.post("/generate/m", {}))[0] == 200
    assert registry.reported_unreachable == ["m-0"]
    assert len(there.received) == 1


async def test_a_draining_pod_is_left_for_another(start: Start, pod, registry: FakeRegistry) -> None:
    drains = await pod(lambda exchange: exchange.answer(503, DRAINING.body("/generate", "x")))
    there = await pod()
    registry.add("m", drains.address, there.address)
    registry.entries["m"].backends[1].in_flight = 1
    running = await start(registry)
    for _ in range(3):
        assert (await running.post("/generate/m", {}))[0] == 200
    assert (len(drains.received), len(there.received)) == (1, 3)


@pytest.mark.parametrize("path", ["/generate", "/v1"])
async def test_when_every_pod_drains_the_client_reads_so(start: Start, pod, registry: FakeRegistry, path: str) -> None:
    body = DRAINING.body(path, "x")
    drains = await pod(lambda exchange: exchange.answer(503, body, Content_Type="application/json", Retry_After="1"))
    registry.add("m", drains.address)
    running = await start(registry)
    route = "/generate/m" if path == "/generate" else "/v1/completions"
    status, _, headers = await running.post(route, {"model": "m", "prompt": "x"})
    assert status == 503
    assert headers["Retry-After"] == "1"
    assert len(drains.received) == 5


async def test_a_503_for_another_reason_is_passed_on(start: Start, pod, registry: FakeRegistry) -> None:
    body = ApiError("insufficient_memory", "No memory.").body("/generate", "x")
    backend = await pod(lambda exchange: exchange.answer(503, body, Content_Type="application/json"))
    registry.add("m", backend.address)
    running = await start(registry)
    status, answer, _ = await running.post("/generate/m", {})
    assert (status, answer["details"]["code"], len(backend.received)) == (503, "insufficient_memory", 1)


async def _close(exchange: Exchange) -> None:
    exchange.cut()


async def _speak_no_http(exchange: Exchange) -> None:
    await exchange.send(b"220 mail.example ESMTP\r\n")


async def _cut_plain(exchange: Exchange) -> None:
    await exchange.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"resp')
    exchange.cut()


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [(_speak_no_http, "before it answered"), (_cut_plain, "in the middle")],
)
async def test_a_request_with_a_wrong_or_half_answer_is_not_sent_again(
    start: Start, pod, registry: FakeRegistry, behaviour, says: str
) -> None:
    backend, other = await pod(behaviour), await pod()
    registry.add("m", backend.address, other.address)
    registry.entries["m"].backends[1].in_flight = 1
    running = await start(registry)
    status, answer, _ = await running.post("/generate/m", {})
    assert (status, answer["details"]["code"]) == (502, "backend_failed")
    assert says in answer["error"]
    assert (len(backend.received), len(other.received)) == (1, 0)


async def test_a_request_whose_pod_ended_before_it_answered_is_asked_of_another(
    start: Start, pod, registry: FakeRegistry
) -> None:
    backend, other = await pod(_close), await pod()
    registry.add("m", backend.address, other.address)
    registry.entries["m"].backends[1].in_flight = 1
    running = await start(registry)
    assert (await running.post("/generate/m", {}))[0] == 200
    assert (len(backend.received), len(other.received)) == (1, 1)
    assert 'ams_gateway_retries_total{model="m",reason="no_answer"} 1.0' in await running.metrics()


async def test_no_pod_reachable(start: Start, pod, registry: FakeRegistry) -> None:
    gone = await pod()
    await gone.stop()
    registry.add("m", gone.address)
    running = await start(registry)
    status, answer, headers = await running.post("/generate/m", {})
    assert (status, answer["details"]["code"]) == (503, "no_backend")
    assert int(headers["Retry-After"]) >= 1
    assert str(gone.port) not in answer["error"]


async def test_a_pod_that_fails_three_times_is_left_out_and_comes_back(
    start: Start, pod, registry: FakeRegistry
) -> None:
    failing: FakePod = await pod(_close)
    good = await pod()
    registry.add("m", failing.address, good.address)
    bad, fine = registry.entries["m"].backends
    fine.in_flight = 1
    running = await start(registry)
    statuses = [(await running.post("/generate/m", {}))[0] for _ in range(6)]
    assert statuses == [200] * 6
    assert (len(failing.received), len(good.received)) == (3, 6)
    assert 'ams_gateway_ejections_total{model="m"} 1.0' in await running.metrics()
    failing.behaviour = say_hello
    bad.ejected_until = 0.0
    assert (await running.post("/generate/m", {}))[0] == 200
    assert (len(failing.received), bad.failures) == (4, 0)


async def test_a_crashed_pod_s_successor_gets_the_request(start: Start, pod, registry: FakeRegistry) -> None:
    """The only pod is gone, its owner notices, starts another: the client just waits."""
    old, new = await pod(), await pod()
    entry = registry.add("m", old.address)
    running = await start(registry)
    await running.post("/generate/m", {})
    await old.stop()
    noticed = registry.unreachable
    registry.unreachable = lambda model, backend: (noticed(model, backend), entry.backends.clear())[0]
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "again"}))
    await entry.demanded.wait()
    registry.add_backend("m", new.address)
    assert (await request)[0] == 200
    assert new.received[0].body == b'{"prompt":"again"}'


async def test_a_stream_cut_by_its_pod_ends_with_an_error_event(start: Start, pod, registry: FakeRegistry) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.start_stream()
        await exchange.chunk(b'data: {"response": "a"}\n\ndata: {"resp')
        exchange.cut()

    backend = await pod(cut)
    registry.add("m", backend.address)
    running = await start(registry)
    async with running.client.post(running.url + "/generate/m", json={"stream": True}) as response:
        assert response.status == 200
        text = (await response.read()).decode()
    first, last = text.strip().split("\n\n")
    assert first == 'data: {"response": "a"}'
    assert last.startswith('event: error\ndata: {"error":"The process of m ended in the middle of its answer."')
    assert 'ams_gateway_errors_total{error="backend_failed",model="m"} 1.0' in await running.metrics()


async def test_a_large_plain_answer_that_is_cut_is_seen_as_incomplete(
    start: Start, pod, registry: FakeRegistry
) -> None:
    async def cut(exchange: Exchange) -> None:
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 500_000)
        exchange.cut()

    backend = await pod(cut)
    registry.add("m", backend.address)
    running = await start(registry)
    with pytest.raises(aiohttp.ClientError):
        async with running.client.post(running.url + "/generate/m", json={}) as response:
            await response.read()


async def test_a_pod_that_never_answers_is_timed_out(start: Start, pod, registry: FakeRegistry, monkeypatch) -> None:
    monkeypatch.setattr("ams_gateway.proxy.forward._POD_ANSWERS_TIMEOUTS_SECONDS", 0.0)
    gone = asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.until_client_is_gone()
        gone.set()

    backend = await pod(wait)
    registry.add("m", backend.address, request_timeout_seconds=0.05)
    running = await start(registry)
    status, answer, headers = await running.post("/generate/m", {})
    assert (status, answer["details"]["code"], headers["X-Should-Retry"]) == (504, "timeout", "false")
    await gone.wait()
    assert len(backend.received) == 1
