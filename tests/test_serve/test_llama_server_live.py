"""A real llama-server behind a pod of ours: every route, cancellation, and what happens when it is killed or hangs.

Its program is found by AMS_LLAMA_SERVER or on the PATH; else these tests are skipped.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakehub.tiny_gguf import make_gguf
from prometheus_client.parser import text_string_to_metric_families
from test_serve.live_pods import LivePod, pod_process

PROGRAM = os.environ.get("AMS_LLAMA_SERVER") or shutil.which("llama-server")
STREAMS = 32
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no llama-server: neither AMS_LLAMA_SERVER nor on the PATH")


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", context=4096)


@pytest.fixture(scope="module")
def models(gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder, with what prompts need of the file."""
    folder = tmp_path_factory.mktemp("models")
    subprocess.run(
        [
            sys.executable, "-m", "ams_pod", "download", "--source", f"file://{gguf}", "--models-dir", str(folder),
            "--engine", "llamacpp", "--progress-port", "-1",
        ],
        check=True, capture_output=True, timeout=100,
    )  # fmt: skip
    return folder


@contextmanager
def llama_pod(gguf: Path, models: Path, folder: Path, name: str = "llama") -> Iterator[tuple[LivePod, Any]]:
    command = [
        PROGRAM, "-m", "{model}", "-t", "2", "-np", str(STREAMS), "-c", str(STREAMS * 4096), "--no-webui", "--metrics",
        "--host", "127.0.0.1", "--port", "{port}",
    ]  # fmt: skip
    variables = {"LD_LIBRARY_PATH": str(Path(str(PROGRAM)).parent)}
    with pod_process(
        folder, gguf, name, models_dir=models, engine="llamacpp", engine_command=json.dumps(command),
        engine_variables=json.dumps(variables), engine_log=folder / "engine.log", concurrent_requests=STREAMS,
    ) as (pod, process):  # fmt: skip
        yield pod.wait_ready(), process


@pytest.fixture(scope="module")
def pod(gguf: Path, models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LivePod]:
    with llama_pod(gguf, models, tmp_path_factory.mktemp("pod")) as (pod, _):
        yield pod


def engine_pid(pod: LivePod) -> int:
    """The newest engine that the pod's log tells of."""
    lines = [line for line in pod.log.read_text().splitlines() if "engine started as process" in line]
    return int(lines[-1].split("engine started as process ")[1].split(":")[0])


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "llama", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 12, **fields}


def test_a_chat(pod: LivePod) -> None:
    answer = pod.client.post("/v1/chat/completions", chat(temperature=0, ignore_eos=True)).json()
    assert answer["usage"]["completion_tokens"] == 12
    assert answer["choices"][0]["finish_reason"] == "length"
    again = pod.client.post("/v1/chat/completions", chat(temperature=0, ignore_eos=True)).json()
    assert again["choices"] == answer["choices"]
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_a_stream_tells_the_same(pod: LivePod) -> None:
    whole = pod.client.post("/v1/chat/completions", chat(temperature=0, ignore_eos=True)).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    lines = pod.client.post("/v1/chat/completions", chat(temperature=0, ignore_eos=True, **options)).text.splitlines()
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    text = "".join(choice["delta"].get("content") or "" for event in events for choice in event["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    assert events[-1]["usage"]["completion_tokens"] == 12


def test_other_routes(pod: LivePod) -> None:
    assert pod.client.post("/generate", {"prompt": "the cat", "max_new_tokens": 4}).status == 200
    # Held to words, as llama.cpp tells no logprobs of tokens that are parts of a character.
    completion = {"model": "llama", "prompt": [5, 6, 7], "max_tokens": 20, "logprobs": 2, "guided_choice": ["the cat"]}
    answer = pod.client.post("/v1/completions", completion).json()
    logprobs = answer["choices"][0]["logprobs"]
    assert answer["choices"][0]["text"] == "the cat"
    *words, last = logprobs["tokens"]
    assert "".join(words) == "the cat"
    assert last in ("<|im_end|>", "<|endoftext|>")  # either ends what this model says
    assert len(logprobs["token_logprobs"]) == len(logprobs["tokens"]) >= 2
    assert pod.client.post("/v1/responses", {"model": "llama", "input": "hi", "max_output_tokens": 16}).status == 200
    message = {"model": "llama", "max_tokens": 4, "messages": [{"role": "user", "content": "hi"}]}
    assert pod.client.post("/v1/messages", message).status == 200
    status = pod.client.get("/admin/model_status").json()
    assert (status["context_tokens"], status["architecture"]) == (4096, "LlamaForCausalLM")
    assert pod.client.get("/internal/engine/alive").status == 200


def test_an_answer_of_a_given_form(pod: LivePod) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    answer = pod.client.post("/v1/chat/completions", chat(response_format=form, max_tokens=300)).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) in ({"a": 1}, {"a": 2})
    answer = pod.client.post("/v1/chat/completions", chat(guided_choice=["yes", "no"])).json()
    assert answer["choices"][0]["message"]["content"] in ("yes", "no")


def test_what_it_cannot_do_is_said(pod: LivePod) -> None:
    refused = pod.client.post("/v1/chat/completions", chat(guided_regex="a+"))
    assert refused.status == 400
    assert "llama.cpp" in refused.json()["error"]["message"]
    long = pod.client.post("/v1/completions", {"model": "llama", "prompt": [5] * 5000})
    assert long.json()["error"]["code"] == "context_length_exceeded"


def test_nobody_else_may_ask_the_engine(pod: LivePod) -> None:
    words = Path(f"/proc/{engine_pid(pod)}/cmdline").read_text().split("\0")
    port = int(words[words.index("--port") + 1])
    environment = Path(f"/proc/{engine_pid(pod)}/environ").read_text()
    key = environment.split("LLAMA_API_KEY=")[1].split("\0")[0]
    assert key not in pod.log.read_text()
    assert not any(key in word for word in words)

    async def ask() -> int:
        url = f"http://127.0.0.1:{port}/completion"
        async with aiohttp.ClientSession() as session, session.post(url, data=b'{"prompt": "x"}') as response:
            return response.status

    assert asyncio.run(ask()) == 401


class Streams:
    """Many requests at once; what each of them came to."""

    def __init__(self, pod: LivePod, tokens: int) -> None:
        self._pod, self._tokens = pod, tokens
        self.got = [0] * STREAMS

    async def _one(self, session: aiohttp.ClientSession, number: int) -> str:
        body = chat(stream=True, ignore_eos=True, max_tokens=self._tokens, seed=number, temperature=1.0)
        async with session.post("http://pod/v1/chat/completions", json=body) as response:
            if response.status != 200:
                return str((await response.json())["error"]["code"])
            async for line in response.content:
                if line.startswith(b'data: {"error"'):
                    return str(json.loads(line[6:])["error"]["code"])
                if line.startswith(b"data: [DONE]"):
                    return "done"
                self.got[number] += line.startswith(b"data: ")
        return "cut off"

    async def run(self, when_begun: Any, seconds: float) -> Counter[str]:
        connector = aiohttp.UnixConnector(str(self._pod.socket), limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            tasks = [asyncio.create_task(self._one(session, number)) for number in range(STREAMS)]
            while min(self.got) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            if when_begun is None:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                return Counter()
            when_begun()
            return Counter(await asyncio.wait_for(asyncio.gather(*tasks), seconds))


def restarts(pod: LivePod) -> dict[str, float]:
    return {
        sample.labels["reason"]: sample.value
        for family in text_string_to_metric_families(pod.client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "ams_pod_engine_restarts_total"
    }


def test_cancelled_requests_leave_the_engine_idle(pod: LivePod) -> None:
    asyncio.run(Streams(pod, 3500).run(None, 30))
    began = time.monotonic()
    pod.until_load(in_flight=0, queued=0)
    words = Path(f"/proc/{engine_pid(pod)}/cmdline").read_text().split("\0")
    port, environment = words[words.index("--port") + 1], Path(f"/proc/{engine_pid(pod)}/environ").read_text()
    headers = {"Authorization": "Bearer " + environment.split("LLAMA_API_KEY=")[1].split("\0")[0]}

    async def busy() -> int:
        url = f"http://127.0.0.1:{port}/slots"
        async with aiohttp.ClientSession(headers=headers) as session, session.get(url) as response:
            return sum(slot["is_processing"] for slot in await response.json())

    while asyncio.run(busy()):
        assert time.monotonic() - began < 1.0
        time.sleep(0.02)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGKILL, "ended"), (signal.SIGSTOP, "silent")])
def test_an_engine_that_dies_or_hangs_is_started_again(pod: LivePod, number: signal.Signals, reason: str) -> None:
    before, pid = restarts(pod)[reason], engine_pid(pod)
    outcomes = asyncio.run(Streams(pod, 3500).run(lambda: os.kill(pid, number), 90))
    assert set(outcomes) <= {"backend_failed", "done"}
    assert outcomes["backend_failed"] > 0
    answer = pod.client.post("/v1/chat/completions", chat())
    assert answer.status == 200
    assert restarts(pod)[reason] == before + 1
    assert engine_pid(pod) != pid
    told = pod.client.get("/internal/timelines").json()["machine"]
    assert told["engine_restart_reason"] == reason


def test_sigterm_loses_nothing(gguf: Path, models: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        pod, process = stack.enter_context(llama_pod(gguf, models, tmp_path, "llama"))
        pid = engine_pid(pod)
        outcomes = asyncio.run(Streams(pod, 200).run(lambda: process.send_signal(signal.SIGTERM), 60))
        assert outcomes == {"done": STREAMS}
        assert process.wait(20) == 0
        assert not Path(f"/proc/{pid}").exists()


def test_the_engine_ends_with_the_pod(gguf: Path, models: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        pod, process = stack.enter_context(llama_pod(gguf, models, tmp_path, "llama"))
        pid = engine_pid(pod)
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 5
        while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
