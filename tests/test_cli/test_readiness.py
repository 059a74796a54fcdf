"""How `ams up` hears that a model process is ready: at once, and from processes that tell nothing for a while."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web
from ams_cli.readiness import ReadinessProbe


async def serve(path: Path, answer: Callable[[web.Request], object]) -> web.AppRunner:
    async def ready(request: web.Request) -> web.Response:
        status, body = await answer(request)
        return web.Response(status=status, text=body)

    app = web.Application()
    app.router.add_get("/ready", ready)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.UnixSite(runner, str(path)).start()
    return runner


async def until_ready(path: Path) -> tuple[list[str], int]:
    """Phases that were told, and how many answers there were."""
    phases: list[str] = []
    answers = 0
    async with asyncio.timeout(20), ReadinessProbe(str(path)) as probe:
        async for asked in probe.follow():
            answers += 1
            if asked is not None and asked.ready:
                return phases, answers
            if asked is not None and asked.progress is not None and asked.progress.phase not in phases:
                phases.append(asked.progress.phase)
    raise AssertionError


async def test_a_process_that_holds_the_question_is_heard_at_once(tmp_path: Path) -> None:
    settled, asked = asyncio.Event(), asyncio.Event()
    waits: list[float] = []

    async def answer(request: web.Request) -> tuple[int, str]:
        waits.append(float(request.query["wait"]))
        asked.set()
        try:
            async with asyncio.timeout(waits[-1]):
                await settled.wait()
        except TimeoutError:
            return 503, json.dumps({"phase": "packing", "percent": 50})
        return 200, json.dumps({"phase": "ready"})

    runner = await serve(tmp_path / "s", answer)
    following = asyncio.create_task(until_ready(tmp_path / "s"))
    await asyncio.sleep(0.25)
    asked.clear()
    await asked.wait()  # a question was asked just now
    began = time.monotonic()
    settled.set()
    phases, _ = await following
    assert time.monotonic() - began < 0.09, "before the question's time is over"
    assert phases == ["packing"]
    assert set(waits) == {0.1}
    await runner.cleanup()


@pytest.mark.parametrize("words", ["", "[]", '{"phase": "of another version"}'])
async def test_a_process_of_another_make_is_asked_at_a_pace(tmp_path: Path, words: str) -> None:
    began = time.monotonic()

    async def answer(request: web.Request) -> tuple[int, str]:
        return (200, "") if time.monotonic() - began > 0.3 else (503, words)

    runner = await serve(tmp_path / "s", answer)
    _, answers = await until_ready(tmp_path / "s")
    assert 2 <= answers <= 20
    await runner.cleanup()


async def test_a_process_without_a_socket_is_waited_for(tmp_path: Path) -> None:
    following = asyncio.create_task(until_ready(tmp_path / "s"))
    await asyncio.sleep(0.1)
    assert not following.done()

    async def answer(request: web.Request) -> tuple[int, str]:
        return 200, ""

    runner = await serve(tmp_path / "s", answer)
    assert (await following)[0] == []
    await runner.cleanup()


async def test_one_question_isnt_held(tmp_path: Path) -> None:
    seen: list[str] = []

    async def answer(request: web.Request) -> tuple[int, str]:
        seen.append(request.query["wait"])
        return 503, json.dumps({"phase": "starting"})

    runner = await serve(tmp_path / "s", answer)
    async with ReadinessProbe(str(tmp_path / "s")) as probe:
        asked = await probe.ask()
    assert asked is not None
    assert not asked.ready
    assert seen == ["0"]
    await runner.cleanup()
