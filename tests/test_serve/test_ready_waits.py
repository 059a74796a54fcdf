"""`GET /ready?wait=SECONDS` answers when the model is ready, and no later than asked."""

import asyncio
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.port import LoadFailed
from ams_pod.serve.app import make_app
from ams_pod.serve.pod import ModelPod
from test_serve.test_engine_port import ShoutingEngine


@pytest.fixture
async def pod(tmp_path: Path):
    """A pod that isn't started: it loads nothing until a test says so."""
    settings = ServeSettings(name="m", source=f"file://{tmp_path}", temp_dir=str(tmp_path / "temp"))
    return ModelPod(settings, tmp_path, ShoutingEngine)


@pytest.fixture
async def ask(pod: ModelPod):
    runner = web.AppRunner(make_app(pod), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:

        async def get(path: str) -> tuple[int, str, float]:
            began = time.monotonic()
            async with session.get(path) as response:
                return response.status, (await response.json())["phase"], time.monotonic() - began

        yield get
    await runner.cleanup()


async def test_it_answers_once_the_model_is_ready(pod: ModelPod, ask) -> None:
    asking = asyncio.create_task(ask("/ready?wait=20"))
    await asyncio.sleep(0.05)
    assert not asking.done()
    pod.start()
    status, phase, seconds = await asking
    assert (status, phase) == (200, "ready")
    assert seconds < 10
    assert (await ask("/ready?wait=20"))[2] < 10
    await pod.drain()
    assert (await ask("/ready?wait=20"))[:2] == (503, "draining")


async def test_it_answers_when_the_time_is_over(ask) -> None:
    status, phase, seconds = await ask("/ready?wait=0.05")
    assert (status, phase) == (503, "starting")
    assert 0.05 <= seconds < 10


@pytest.mark.parametrize("words", ["", "wait=", "wait=much", "wait=-1", "wait=nan", "wait=0"])
async def test_whatever_is_no_time_is_none(ask, words: str) -> None:
    assert (await ask(f"/ready?{words}"))[2] < 10


async def test_a_wait_has_an_end(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_pod.serve.app._LONGEST_WAIT_SECONDS", 0.05)
    assert (await ask("/ready?wait=inf"))[2] < 10


async def test_it_answers_when_the_model_fails(tmp_path: Path, pod: ModelPod, ask) -> None:
    def fail(*arguments: object) -> None:
        raise LoadFailed("no such model")

    pod._open_engine = fail
    asking = asyncio.create_task(ask("/ready?wait=20"))
    await asyncio.sleep(0.01)
    pod.start()
    status, phase, seconds = await asking
    assert (status, phase) == (503, "failed")
    assert seconds < 10
