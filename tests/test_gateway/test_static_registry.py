"""The fixed list of pods, and the command that serves it."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack

import pytest
from ams_common.errors import ApiError
from ams_common.lifecycle import Phase
from ams_gateway.registry.static import StaticRegistry
from test_gateway.gateway_fakes import Exchange, FakePod, post, raw_connection, read_raw_answer, say_hello


async def _ready_then_hello(exchange: Exchange) -> None:
    if exchange.request.target == "/ready":
        await exchange.json(200, {"phase": "ready"})
    else:
        await say_hello(exchange)


async def _loading(exchange: Exchange) -> None:
    await exchange.json(503, {"phase": "downloading", "percent": 12.0, "eta_seconds": 9.0})


async def _failed(exchange: Exchange) -> None:
    await exchange.json(503, {"phase": "failed", "failure": {"reason": "DiskFull", "message": "The volume is full."}})


async def test_progress_then_ready_then_gone(pod, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ams_gateway.registry.static._POLL_SECONDS", 0.01)
    backend: FakePod = await pod(_loading)
    async with StaticRegistry({"m": [backend.address]}) as registry:
        model = registry.find("M")
        assert model is not None
        assert registry.find("n") is None
        assert list(registry.backends(model)) == []
        seen = []
        async for progress in registry.wait_ready(model):
            seen.append(progress.comment())
            backend.behaviour = _ready_then_hello if "downloading" in progress.phase else _loading
        assert seen == ["pending", "downloading 12 % eta 9s"]
        (there,) = registry.backends(model)
        assert registry.progress(model).phase == Phase.READY
        await backend.stop()
        registry.unreachable(model, there)
        assert list(registry.backends(model)) == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"phase":"downloading","message":"\xff"}',
        b'{"phase":"downloading","x":' + b"[" * 60_000,
        b'{"phase":"downloading","percent":1e999}',
        b"<html>",
    ],
    ids=["no UTF-8", "too deep", "out of range", "HTML"],
)
async def test_a_pod_whose_progress_makes_no_sense_is_asked_again(
    pod, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    monkeypatch.setattr("ams_gateway.registry.static._POLL_SECONDS", 0.01)
    backend: FakePod = await pod(lambda exchange: exchange.answer(503, body))
    async with StaticRegistry({"m": [backend.address]}) as registry:
        model = registry.find("m")
        assert model is not None
        await backend.got_request.wait()
        backend.behaviour = _ready_then_hello
        assert [progress.phase async for progress in registry.wait_ready(model)][-1] == Phase.PENDING
        assert len(registry.backends(model)) == 1


async def test_a_pod_that_failed(pod) -> None:
    backend = await pod(_failed)
    async with StaticRegistry({"m": [backend.address]}) as registry:
        model = registry.models()[0]
        with pytest.raises(ApiError, match="volume is full") as caught:
            async for _ in registry.wait_ready(model):
                pass
    assert (caught.value.code, caught.value.details) == ("model_failed", {"reason": "DiskFull"})


async def test_the_command(pod) -> None:
    backend = await pod(_ready_then_hello)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from ams_gateway.main import main; main()", "--port", "0", "--host", "127.0.0.1",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        env={"AMS_BACKEND": f"m={backend.address}", "AMS_LOG_FORMAT": "json"},
    )  # fmt: skip
    assert process.stderr is not None
    said = b""
    while b"listening on" not in said:
        said += (line := await process.stderr.readline())
        assert line, said
    assert b"There is no authentication" in said
    port = int(said.split(b"http://127.0.0.1:")[1].split(b" ")[0])
    async with raw_connection(port) as (reader, writer):
        writer.write(post("/generate/m", b'{"prompt":"secret"}', "X-Request-Id: one"))
        assert (await read_raw_answer(reader)).status == 200
    process.send_signal(signal.SIGTERM)
    lines, _ = await process.communicate()
    assert process.returncode == 0
    assert (
        b'"id":"one","method":"POST","path":"/generate/m","route":"/generate/{model}","model":"m","code":200' in lines
    )
    assert b"secret" not in lines


async def test_more_clients_than_open_files_allow_are_told_so(pod) -> None:
    backend = await pod(_ready_then_hello)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (80, 160))\n"
        "from ams_gateway.main import main; main()",
        "--port", "0", "--host", "127.0.0.1", "--backend", f"m={backend.address}",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while b"listening on" not in (line := await process.stderr.readline()):
        assert line
    try:
        port = int(line.split(b"http://127.0.0.1:")[1].split(b" ")[0])
        async with AsyncExitStack() as idle:
            for _ in range(48):  # (160 - 64) / 2
                await idle.enter_async_context(raw_connection(port))
            for _ in range(100):
                async with raw_connection(port) as (reader, writer):
                    answer = await read_raw_answer(reader)
                    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
                    assert await reader.read() == b""
        for _ in range(20):
            async with raw_connection(port) as (reader, writer):
                writer.write(post("/generate/m", b'{"prompt":"x"}'))
                if (await read_raw_answer(reader)).status == 200:
                    break
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("nobody is served once the idle clients are gone")
    finally:
        process.terminate()
        _, log = await process.communicate()
    assert log.count(b"48 clients are connected, as many as the limit of open files allows") == 1
    assert b"Traceback" not in log


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (["--backend", "m"], b"is not a backend", 2),
        (["--spool-dir", "/nowhere"], b"expected a folder", 2),
        (["--port", "x"], b"--port='x': expected int", 2),
        (["--host", "256.1.1.1", "--port", "0", "--allow-anonymous"], b"can't listen on 256.1.1.1:0", 1),
    ],
)
async def test_wrong_settings_stop_the_command(arguments: list[str], says: bytes, code: int) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from ams_gateway.main import main; main()", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert says in said
    assert b"Traceback" not in said
    assert process.returncode == code
