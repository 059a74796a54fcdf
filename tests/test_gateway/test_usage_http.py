"""The ledger as admins read it: what each key used of each model, however its requests ended."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from ams_common.keys import KeyFile, Scope
from ams_gateway.registry.port import KeepAnswers
from ams_gateway.usage import undelivered
from test_gateway.conftest import Running, Start
from test_gateway.gateway_fakes import Exchange, FakePod, FakeRegistry
from test_gateway.test_keys import ADMIN, TEAM, bearer, door_of, get, stored

StartPod = Callable[..., Awaitable[FakePod]]
TWO = "ams-key-two"
KEYS = KeyFile(keys=(stored("team", TEAM), stored("two", TWO), stored("admin", ADMIN, scopes=(Scope.ADMIN,))))
USED = "prompt=10 completion=5 cached=4 media=1 compute=0.250000"


async def behave(exchange: Exchange) -> None:
    body = exchange.request.body
    if exchange.request.target == "/internal/usage":
        await exchange.json(200, {"usage": exchange_usage, "more": False})
        exchange_usage.clear()
    elif b"fail" in body:
        await exchange.json(400, {"error": "no", "details": {"code": "invalid_parameter"}})
    elif b"leave" in body:
        await exchange.start_stream()
        await exchange.chunk(b'data: {"response": "a"}\n\n')
        await exchange.until_client_is_gone()
    elif b"cut" in body:
        exchange.cut()
    elif b"stream" in body:
        await exchange.start_stream()
        await exchange.chunk(f'data: {{"response": "a"}}\n\n: usage {USED}\n\ndata: [DONE]\n\n'.encode())
        await exchange.end_stream()
    else:
        await exchange.json(200, {"response": "a"}, X_AMS_Usage=USED, X_AMS_Answer_Version="v")


exchange_usage: list[dict[str, Any]] = []


async def usage(running: Running, query: str) -> list[dict[str, Any]]:
    status, body, _ = await get(running, f"/admin/usage?{query}", bearer(ADMIN))
    assert status == 200
    rows: list[dict[str, Any]] = body["rows"]
    return rows


async def served(start: Start, pod: StartPod, registry: FakeRegistry, folder: Path) -> Running:
    exchange_usage.clear()
    registry.add("m", (await pod(behave)).address, answers=KeepAnswers(60, 1 << 20))
    return await start(registry, door=door_of(folder, KEYS), usage_file=str(folder / "usage.db"))


async def ask(running: Running, key: str, prompt: str, **more: Any) -> int:
    body = {"prompt": prompt, **more}
    async with running.client.post(running.url + "/generate/m", json=body, headers=bearer(key)) as response:
        await response.read()
        return response.status


async def test_what_each_key_used(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    running = await served(start, pod, registry, tmp_path)
    for key, times in ((TEAM, 3), (TWO, 2)):
        for _ in range(times):
            assert await ask(running, key, "hi") == 200
    assert await ask(running, TEAM, "stream", stream=True) == 200
    rows = {row["key"]: row for row in await usage(running, "group=key")}
    assert set(rows) == {"team", "two"}
    told = [
        (row["requests"], row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"], row["media"],
         row["compute_seconds"]) for row in (rows["team"], rows["two"])
    ]  # fmt: skip
    assert told == [(4, 40, 16, 20, 4, 1.0), (2, 20, 8, 10, 2, 0.5)]
    assert 'ams_gateway_key_tokens_total{key="team",token_type="input"} 40.0' in await _metrics(running)


async def test_how_requests_ended(start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path) -> None:
    running = await served(start, pod, registry, tmp_path)
    assert await ask(running, TEAM, "hi", temperature=0) == 200
    assert await ask(running, TEAM, "hi", temperature=0) == 200
    assert await ask(running, TEAM, "fail") == 400
    assert await ask(running, TEAM, "cut") == 502
    rows = {row["outcome"]: row for row in await usage(running, "group=outcome")}
    told = {name: (row["requests"], row["completion_tokens"], row["compute_seconds"]) for name, row in rows.items()}
    assert told == {
        "answered": (1, 5, 0.25), "cached": (1, 5, 0.0), "failed": (1, 0, 0.0), "cut": (1, 0, 0.0),
    }  # fmt: skip


async def test_who_is_refused_is_not_counted(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    running = await served(start, pod, registry, tmp_path)
    await ask(running, "ams-key-nobodys", "hi")
    await ask(running, ADMIN, "hi")
    assert await usage(running, "group=key") == []
    status, _, _ = await get(running, "/admin/usage", bearer(TEAM))
    assert status == 403


async def test_what_a_client_that_left_had_used_is_asked_of_the_pod(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await served(start, pod, registry, tmp_path)
    monkeypatch.setattr(undelivered, "_SOON_SECONDS", 0.05)
    exchange_usage.append(
        {"request_id": "r", "key_id": "k-team", "prompt_tokens": 7, "completion_tokens": 3, "compute_seconds": 0.5}
    )
    exchange_usage.append({"request_id": "r", "key_id": "k-nobody", "prompt_tokens": 1})
    leaving = asyncio.create_task(ask(running, TEAM, "leave", stream=True))
    await asyncio.sleep(0.2)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    async with asyncio.timeout(10):
        while exchange_usage:  # noqa: ASYNC110  # a fake has no event for it
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.1)
    rows = {row["key"]: row for row in await usage(running, "group=key,outcome")}
    assert rows["team"] | {"requests": 1, "prompt_tokens": 7, "completion_tokens": 3, "outcome": "cut"} == rows["team"]
    assert rows["_unknown"]["prompt_tokens"] == 1


async def test_the_ledger_is_there_after_a_restart(
    start: Start, pod: StartPod, registry: FakeRegistry, tmp_path: Path
) -> None:
    running = await served(start, pod, registry, tmp_path)
    await ask(running, TEAM, "hi")
    await running.gateway.close()
    again = await start(registry, door=door_of(tmp_path, KEYS), usage_file=str(tmp_path / "usage.db"))
    assert [row["requests"] for row in await usage(again, "group=key")] == [1]
    async with again.client.get(again.url + "/admin/usage?format=csv", headers=bearer(ADMIN)) as response:
        assert response.headers["Content-Type"].startswith("text/csv")
        assert "team" in await response.text()


async def _metrics(running: Running) -> str:
    return running.gateway._metrics.expose("text/plain")[0].decode()
