"""How requests and pods end before they are done: timeouts, SIGTERM, SIGKILL, and models that can't load."""

import asyncio
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from test_serve.live_pods import LiveForkServer, LivePod, child_pod, events, inside_gateway, pod_process, pod_settings
from test_serve.live_pods import flags as flags_of

LONG = {"prompt": "tell a long story", "max_new_tokens": 50_000, "ignore_eos": True, "temperature": 0}
MESSAGES = [{"role": "user", "content": "hi"}]


async def test_a_plain_request_times_out(hasty: LivePod) -> None:
    async with inside_gateway(hasty) as gateway:
        status, body, headers = await gateway.post("/generate/hasty", LONG)
        assert (status, body["details"]["code"]) == (504, "timeout")
        assert "0.5 seconds" in body["error"]
        assert headers["X-Should-Retry"] == "false"
        chat = {"model": "hasty", "messages": MESSAGES, "max_tokens": 50_000, "ignore_eos": True}
        status, body, _ = await gateway.post("/v1/chat/completions", chat)
        assert (status, body["error"]["code"], body["error"]["type"]) == (504, "timeout", "server_error")
        await asyncio.to_thread(hasty.until_load, in_flight=0, queued=0, cache_tokens=0)
        assert (await gateway.post("/generate/hasty", {"prompt": "hi", "max_new_tokens": 2}))[0] == 200
    assert hasty.outcomes()["timeout"] >= 2


async def test_a_stream_times_out(hasty: LivePod) -> None:
    async with inside_gateway(hasty) as gateway:
        async with gateway.client.post(gateway.url + "/generate/hasty", json=LONG | {"stream": True}) as response:
            assert response.status == 200
            found = events(await response.text())
        assert found[0][0] == "message"
        assert (found[-1][0], found[-1][1]["details"]["code"]) == ("error", "timeout")
        async with openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="hasty", messages=MESSAGES, max_tokens=50_000, stream=True, extra_body={"ignore_eos": True}
            )
            with pytest.raises(openai.APIError, match="not complete after"):
                await _read(stream)
    await asyncio.to_thread(hasty.until_load, in_flight=0, queued=0, cache_tokens=0)


async def _read(stream: Any) -> int:
    return len([chunk async for chunk in stream])


async def test_sigterm_lets_running_streams_finish(folder: Path, long_llama: Path) -> None:
    asked = LONG | {"max_new_tokens": 600, "stream": True}
    with pod_process(folder, long_llama, "ending", max_new_tokens=50_000) as (pod, process):
        await asyncio.to_thread(pod.wait_ready)
        async with inside_gateway(pod) as gateway:
            async with (
                gateway.client.post(gateway.url + "/generate/ending", json=asked) as one,
                gateway.client.post(gateway.url + "/generate/ending", json=asked) as two,
            ):
                first = [await response.content.readuntil(b"\n\n") for response in (one, two)]
                process.send_signal(signal.SIGTERM)
                while not (await asyncio.to_thread(pod.load))["draining"]:
                    pass
                refused = await asyncio.to_thread(pod.client.post, "/generate", {"prompt": "hi"})
                assert (refused.status, refused.json()["details"]["code"]) == (503, "draining")
                assert refused.headers["Retry-After"] == "1"
                not_ready = await asyncio.to_thread(pod.client.get, "/ready")
                assert (not_ready.status, not_ready.json()["phase"]) == (503, "draining")
                rest = [await response.text() for response in (one, two)]
            for begun, ended in zip(first, rest, strict=True):
                found = events(begun.decode() + ended)
                assert found[-1][1] == "[DONE]"
                assert found[-2][1]["usage"]["completion_tokens"] == 600
        assert await asyncio.to_thread(process.wait, 60) == 0
    assert not pod.socket.exists()


async def test_a_pod_killed_in_the_middle_of_a_stream(forks: LiveForkServer, folder: Path, long_llama: Path) -> None:
    with child_pod(forks, folder, long_llama, "killed", max_new_tokens=50_000) as pod:
        async with (
            inside_gateway(pod, hold_seconds=1.0) as gateway,
            openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key="none", max_retries=0) as client,
            gateway.client.post(gateway.url + "/generate/killed", json=LONG | {"stream": True}) as native,
        ):
            stream = await client.chat.completions.create(
                model="killed", messages=MESSAGES, max_tokens=50_000, stream=True, extra_body={"ignore_eos": True}
            )
            await anext(stream)
            await native.content.readuntil(b"\n\n")
            plain = asyncio.create_task(gateway.post("/generate/killed", LONG))
            await asyncio.to_thread(pod.until_load, in_flight=3)
            os.kill(pod.pid, signal.SIGKILL)
            with pytest.raises(openai.APIError, match="ended in the middle"):
                await _read(stream)
            found = events(await native.text())
            assert (found[-1][0], found[-1][1]["details"]["code"]) == ("error", "backend_failed")
            status, body, _ = await plain  # had no answer yet, so it waited for a pod that takes it
            assert (status, body["details"]["code"]) == (503, "model_loading")


async def test_a_stale_connection_is_never_an_error(forks: LiveForkServer, folder: Path, llama: Path) -> None:
    """The gateway keeps a connection to a pod that was replaced at the same address meanwhile."""
    asked = {"prompt": "hi", "max_new_tokens": 4, "temperature": 0}
    with child_pod(forks, folder, llama, "replaced") as pod:
        async with inside_gateway(pod) as gateway:
            status, before, _ = await gateway.post("/generate/replaced", asked)
            assert status == 200
            os.kill(pod.pid, signal.SIGKILL)
            pod.socket.unlink(missing_ok=True)
            successor, number = await asyncio.to_thread(forks.start_pod, folder, llama, "replaced")
            await asyncio.to_thread(successor.wait_ready)
            status, after, _ = await gateway.post("/generate/replaced", asked)
            assert (status, after) == (200, before)
        os.kill(successor.pid, signal.SIGKILL)
        await asyncio.to_thread(forks.wait_event, "exited", number)


async def test_nobody_listens(folder: Path) -> None:
    gone = LivePod("gone", folder / "gone.sock", folder / "gone.log", 0)
    async with inside_gateway(gone, hold_seconds=0.1) as gateway:
        status, body, headers = await gateway.post("/generate/gone", {"prompt": "hi"})
        assert (status, body["details"]["code"], body["details"]["phase"]) == (503, "model_loading", "pending")
        assert "gone is not ready" in body["error"]
        assert int(headers["Retry-After"]) >= 1


def _broken_config(model: Path) -> None:
    (model / "config.json").write_text("{")


def _no_config(model: Path) -> None:
    (model / "config.json").unlink()


def _unknown_architecture(model: Path) -> None:
    (model / "config.json").write_text('{"model_type":"nonesuch","architectures":["Nonesuch"]}')


def _cut_weights(model: Path) -> None:
    os.truncate(model / "model.safetensors", 5000)


def _no_tokenizer(model: Path) -> None:
    for file in [*model.glob("*token*"), *model.glob("vocab*"), *model.glob("merges*")]:
        file.unlink()


def _intact(model: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("break_it", "settings", "says"),
    [
        (_broken_config, {}, "config.json is not valid JSON"),
        (_no_config, {}, "holds no config.json"),
        (_unknown_architecture, {}, "Nonesuch is not supported"),
        (_cut_weights, {}, "afetensor"),
        (_no_tokenizer, {}, "okenizer"),
        (_intact, {"precision": "float16"}, "float16 needs a GPU"),
        (_intact, {"max_memory": '{"cpu": 1}'}, "give it more memory (spec.resources or spec.maxMemory)"),
        (_intact, {"family": "omni"}, ""),  # whatever its parts lack
        (_intact, {"context_tokens": 4096}, "the model was made for 2048"),
    ],
)
def test_a_model_that_cannot_load(
    forks: LiveForkServer,
    llama: Path,
    tmp_path: Path,
    break_it: Callable[[Path], None],
    settings: dict[str, Any],
    says: str,
) -> None:
    model = Path(shutil.copytree(llama, tmp_path / "model"))
    break_it(model)
    reason = tmp_path / "termination-log"
    pod, number = forks.start_pod(tmp_path, model, "failing", termination_log=reason, **settings)
    ended = forks.wait_event("exited", number)
    assert (ended["code"], ended["signal"]) == (1, None), pod.log.read_text()
    (line,) = reason.read_text().splitlines()
    failure = json.loads(line)
    assert failure["reason"]
    assert says in failure["message"], failure
    assert line in pod.log.read_text()
    assert not pod.socket.exists()


def test_wrong_flags_end_with_status_2(forks: LiveForkServer, tmp_path: Path, llama: Path) -> None:
    pod = LivePod("wrong", tmp_path / "wrong.sock", tmp_path / "wrong.log", 0)
    argv = flags_of(pod_settings(pod, llama, {"precision": "int3"}))
    number = forks.ask(["serve", *argv], pod.log)
    assert forks.wait_event("exited", number)["code"] == 2
    assert "--precision='int3': invalid enum value 'int3'; allowed: auto, bfloat16" in pod.log.read_text()
