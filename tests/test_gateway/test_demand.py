"""What the operator sees of waiting and running requests, on the metrics' own port."""

import asyncio
from typing import Any

from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import FakeRegistry


async def ask(running: Running, port: int, query: str = "") -> dict[str, Any]:
    async with running.client.get(f"http://127.0.0.1:{port}/internal/demand{query}") as response:
        assert response.status == 200
        return await response.json()


async def test_a_hold_is_told_at_once_and_ends(start: Start, pod, registry: FakeRegistry, unused_tcp_port: int) -> None:
    backend = await pod()
    entry = registry.add("m", key="prod/m")
    registry.add("other")
    running = await start(registry, metrics_port=unused_tcp_port)
    before = await ask(running, unused_tcp_port)
    assert before["models"]["other"]["held"] == before["models"]["prod/m"]["held"] == 0
    waiting = asyncio.create_task(ask(running, unused_tcp_port, f"?since={before['version']}&wait=30"))
    request = asyncio.create_task(running.post("/generate/m", {"prompt": "x"}))
    report = await waiting
    assert report["version"] != before["version"]
    assert report["models"]["prod/m"] == {"in_flight": 0, "held": 1, "idle_seconds": 0.0}
    await entry.demanded.wait()
    registry.add_backend("m", backend.address)
    assert (await request)[0] == 200
    after = await ask(running, unused_tcp_port)
    assert after["models"]["prod/m"]["held"] == after["models"]["prod/m"]["in_flight"] == 0
    assert after["models"]["prod/m"]["idle_seconds"] <= after["models"]["other"]["idle_seconds"]


async def test_an_old_version_is_answered_at_once_and_nonsense_is_ignored(
    start: Start, registry: FakeRegistry, unused_tcp_port: int
) -> None:
    running = await start(registry, metrics_port=unused_tcp_port)
    version = (await ask(running, unused_tcp_port))["version"]
    assert (await ask(running, unused_tcp_port, f"?since={version + 7}&wait=30"))["version"] == version
    assert (await ask(running, unused_tcp_port, "?since=x&wait=-3"))["version"] == version


async def test_it_is_not_on_the_clients_port(start: Start, registry: FakeRegistry) -> None:
    running = await start(registry)
    async with running.client.get(running.url + "/internal/demand") as response:
        assert response.status == 404
