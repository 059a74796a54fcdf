"""Requests to a pod leave no reference cycles: those to other engines would stay until memory has grown."""

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from ams_pod.serve import server
from cycles import left_to_the_collector
from test_serve.echo_pod import EchoPod, echo_pod

REQUESTS = 20


async def whole(running: EchoPod) -> None:
    assert (await running.generate())[0] == 200


async def streamed(running: EchoPod) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "a"}], "stream": True}
    assert (await running.post("/v1/chat/completions", body))[0] == 200


async def several(running: EchoPod) -> None:
    assert (await running.post("/v1/completions", {"model": "echo", "prompt": "a", "n": 3}))[0] == 200


async def stopped(running: EchoPod) -> None:
    assert (await running.post("/v1/completions", {"model": "echo", "prompt": "a", "stop": "e"}))[0] == 200


@pytest.mark.parametrize("ask", [whole, streamed, several, stopped])
async def test_requests_leave_no_cycles(ask: Callable[[EchoPod], Awaitable[None]], tmp_path: Path) -> None:
    async with echo_pod(tmp_path) as running:
        await ask(running)
        await asyncio.sleep(0.2)
        with left_to_the_collector("ams_") as found:
            for _ in range(REQUESTS):
                await ask(running)
            await asyncio.sleep(0.2)
            running.engine.tickets.clear()  # which it keeps for tests
        assert len(found) < REQUESTS, found[:5]


@pytest.mark.parametrize(("engine", "collects_young"), [("builtin", True), ("vllm", False)])
async def test_what_was_loaded_is_left_out_once_the_pod_is_idle(
    engine: str, collects_young: bool, tmp_path: Path
) -> None:
    """And where no tensors are, young objects are left to the rare collections too."""
    gc.unfreeze()
    async with echo_pod(tmp_path, engine=engine) as running:
        running.pod.idle.clear()
        collecting = asyncio.create_task(server._collect(running.pod))
        try:
            await asyncio.sleep(1.2)
            assert gc.get_freeze_count() == 0, "a request runs"
            running.pod.idle.set()
            async with asyncio.timeout(10):
                while not gc.get_freeze_count():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert gc.isenabled() is collects_young
        finally:
            collecting.cancel()
            gc.enable()
            gc.unfreeze()
