"""Gateways as processes, killed in the middle of their work: limits hold, and the ledger says what clients counted."""

import asyncio
import contextlib
import itertools
import os
import random
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from ams_common.keys import KeyFile, Scope, write_keys
from test_gateway.gateway_fakes import Exchange, FakePod
from test_gateway.redis_server import RedisServer, redis_server
from test_gateway.test_keys import ADMIN, bearer, stored

StartPod = Callable[..., Awaitable[FakePod]]
KEYS = 20


class GatewayProcess:
    """`ams-gateway` on a port that stays, started and killed at will."""

    def __init__(self, folder: Path, port: int, pod: str, *arguments: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = (
            *(sys.executable, "-c", "from ams_gateway.main import main; main()", "--host", "127.0.0.1"),
            *("--port", str(port), "--backend", f"m={pod}", "--keys-file", str(folder / "keys.json"), *arguments),
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, client: aiohttp.ClientSession) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.DEVNULL, env=os.environ | {"AMS_LOG_FORMAT": "console"}
        )
        deadline = time.monotonic() + 30
        while True:
            assert time.monotonic() < deadline
            with contextlib.suppress(aiohttp.ClientError):
                async with client.get(self.url + "/v1/models/m", headers=bearer("ams-key-0")) as response:
                    if (await response.json()).get("state") == "ready":
                        return
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None


class World:
    """Two gateways over one pod, and what clients counted, by key."""

    def __init__(self, gateways: list[GatewayProcess], client: aiohttp.ClientSession) -> None:
        self.gateways = gateways
        self.client = client
        self.counted: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
        self.statuses: dict[int, int] = defaultdict(int)
        self._numbers = itertools.count()

    async def ask(self, gateway: GatewayProcess, key: int) -> int:
        headers = bearer(f"ams-key-{key}")
        async with self.client.post(
            gateway.url + "/generate/m", json={"prompt": "x", "max_new_tokens": 1}, headers=headers
        ) as response:
            body = await response.json()
            self.statuses[response.status] += 1
            if response.status == 200:
                sums = self.counted[f"key-{key}"]
                for place, count in enumerate((1, body["prompt"], body["completion"], body["compute"])):
                    sums[place] += count
            return response.status

    async def ask_many(self, count: int, gateways: list[GatewayProcess] | None = None) -> None:
        chosen = gateways or self.gateways

        async def worker(requests: range) -> None:
            for number in requests:
                await self.ask(chosen[number % len(chosen)], next(self._numbers) % KEYS)

        await asyncio.gather(*(worker(range(first, count, 10)) for first in range(10)))

    async def told(self) -> dict[str, list[float]]:
        """The ledger by key."""
        while True:  # a Redis that was ended is noticed to be back a moment later; the test's own limit ends it
            async with self.client.get(self.gateways[0].url + "/admin/usage", headers=bearer(ADMIN)) as response:
                body = await response.json()
            if response.status == 200:
                rows = body["rows"]
                break
            assert response.status == 503, body
            await asyncio.sleep(0.1)
        names = ("requests", "prompt_tokens", "completion_tokens", "compute_seconds")
        return {row["key"]: [row[name] for name in names] for row in rows}

    async def check(self) -> None:
        told = await self.told()
        assert set(told) == set(self.counted)
        for key, counts in self.counted.items():
            assert told[key][:3] == counts[:3], key
            assert told[key][3] == pytest.approx(counts[3], abs=1e-4)


async def answer(exchange: Exchange) -> None:
    if exchange.request.target.startswith("/internal"):
        await exchange.json(200, {"usage": []})
        return
    used = {"prompt": random.randint(1, 50), "completion": random.randint(1, 50), "compute": random.randint(1, 9) / 1e3}
    usage = f"prompt={used['prompt']} completion={used['completion']} cached=0 media=0 compute={used['compute']:.6f}"
    await exchange.json(200, {"response": "hello"} | used, X_AMS_Usage=usage)


@asynccontextmanager
async def world(
    folder: Path, pod: FakePod, ports: Callable[[], int], *arguments: str, **limits: Any
) -> AsyncIterator[World]:
    users = tuple(stored(f"key-{number}", f"ams-key-{number}", **limits) for number in range(KEYS))
    keys = KeyFile(keys=(*users, stored("admin", ADMIN, scopes=(Scope.ADMIN,))))
    (folder / "keys.json").write_bytes(write_keys(keys))
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession())
        gateways = [
            GatewayProcess(folder, ports(), pod.address, "--usage-file", str(folder / f"usage-{number}.db"), *arguments)
            for number in range(2)
        ]
        for gateway in gateways:
            stack.push_async_callback(gateway.kill)
        await asyncio.gather(*(gateway.start(client) for gateway in gateways))
        yield World(gateways, client)


async def test_a_killed_gateway_forgets_nothing_that_is_a_second_old(
    tmp_path: Path, pod: StartPod, unused_tcp_port_factory: Callable[[], int]
) -> None:
    async with world(tmp_path, await pod(answer), unused_tcp_port_factory) as here:
        one = here.gateways[0]
        for _ in range(3):
            await here.ask_many(300, [one])
            await asyncio.sleep(1.0)
            await one.kill()
            await one.start(here.client)
        await here.ask_many(100, [one])
        await here.check()
    assert here.statuses == {200: 1000}


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with redis_server(tmp_path, "--appendonly", "yes", "--appendfsync", "always") as started:
        yield started


async def test_gateways_and_redis_are_killed_in_between(
    tmp_path: Path, pod: StartPod, server: RedisServer, unused_tcp_port_factory: Callable[[], int]
) -> None:
    """Nobody gets an error, and tokens and compute time are what clients counted."""
    arguments = ("--redis-url", server.url)
    limits = {"requests_per_minute": 100_000, "tokens_per_minute": 10**7, "concurrent_requests": 500}
    async with world(tmp_path, await pod(answer), unused_tcp_port_factory, *arguments, **limits) as here:
        one, two = here.gateways
        await here.ask_many(400)
        asking = asyncio.create_task(here.ask_many(1500))
        await asyncio.sleep(0.3)
        server.kill()
        await asking
        await here.ask_many(200)
        await asyncio.sleep(1.0)
        await two.kill()
        await here.ask_many(200, [one])
        server.start("--appendonly", "yes", "--appendfsync", "always")
        await two.start(here.client)
        await here.ask_many(400)
        await asyncio.sleep(1.5)
        assert here.statuses == {200: 2700}
        await here.check()


async def test_one_limit_over_two_gateways(
    tmp_path: Path, pod: StartPod, server: RedisServer, unused_tcp_port_factory: Callable[[], int]
) -> None:
    arguments = ("--redis-url", server.url)
    async with world(tmp_path, await pod(answer), unused_tcp_port_factory, *arguments, requests_per_minute=60) as here:
        begun = time.monotonic()
        statuses = await asyncio.gather(*(here.ask(here.gateways[number % 2], 1) for number in range(600)))
        assert 60 <= statuses.count(200) <= 60 + (time.monotonic() - begun) + 1
        assert statuses.count(429) == 600 - statuses.count(200)
        server.kill()
        await asyncio.sleep(0.2)
        statuses = await asyncio.gather(*(here.ask(here.gateways[number % 2], 2) for number in range(600)))
        assert set(statuses) == {200, 429}
        assert statuses.count(200) <= 120
