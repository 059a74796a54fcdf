"""An engine of another make fits behind the port: all of the pod's HTTP side works on one that knows no torch."""

import asyncio
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.port import (
    PLAIN_CHAT,
    Capabilities,
    Engine,
    EngineCounters,
    EngineHealth,
    EngineRefusal,
    MemoryUsage,
    ModelInfo,
    Occupancy,
    Prepared,
    Restart,
    Sampling,
    Ticket,
    TokenEvent,
)
from ams_pod.serve.app import make_app
from ams_pod.serve.pod import ModelPod
from ams_pod.shares import EVERYBODY


class ShoutingEngine:
    """Answers with the last message in capitals, a character a token: all that the port asks for, and nothing else."""

    info = ModelInfo(
        architecture="Shout", family="text", device="cpu", precision="float32", parameters=1, weights_bytes=1,
        context_tokens=200, cache_bytes_per_token=1, concurrent_requests=2, engine="shouting",
    )  # fmt: skip
    capabilities = Capabilities(("text",), frozenset({"raw-prompts"}))

    def __init__(self, folder, settings, publish, report, loop):
        self.counters = EngineCounters()
        self._publish, self._stopped = publish, threading.Event()

    def prepare_chat(self, messages, options=PLAIN_CHAT):
        return self.prepare_text(messages[-1]["content"])

    def prepare_text(self, text):
        if "whisper" in text:
            raise EngineRefusal("invalid-prompt", "This model doesn't whisper.", part="prompt")
        return Prepared([ord(character) for character in text])

    def prepare_ids(self, ids):
        return Prepared(list(ids))

    def prepare_pair(self, query, text):
        raise EngineRefusal("unsupported", "This model shouts at texts, and doesn't compare them.")

    def prepare_constraint(self, constraint):
        raise EngineRefusal("unsupported", "This model shouts what it likes.")

    def detokenizer(self, after=(), *, special=False):
        return self

    def token_bytes(self, token):
        return chr(token).upper().encode()

    def text_of(self, ids):
        return "".join(map(chr, ids))

    def push(self, token):
        return chr(token).upper()

    def submit(self, prepared, sampling, sink, share=EVERYBODY, cache_salt=""):
        self.last_sampling = sampling
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share, started_at=time.monotonic())
        tokens = prepared.ids[: sampling.max_new_tokens]
        ends = [None] * (len(tokens) - 1) + ["length"]
        self.counters.decode_tokens += len(tokens)
        self._publish([TokenEvent(ticket, token, end) for token, end in zip(tokens, ends, strict=True)])
        return ticket

    def cancel(self, ticket):
        ticket.cancelled = True

    def occupancy(self):
        return Occupancy(cache_capacity_tokens=400)

    def memory(self):
        return MemoryUsage("cpu", ram_total_bytes=8 << 30, ram_available_bytes=6 << 30, process_bytes=1 << 30)

    def free_memory(self):
        pass

    def run(self):
        self._stopped.wait()

    def stop(self):
        self._stopped.set()


class RelayingEngine(ShoutingEngine):
    """As an engine in front of another server: it gets pieces of text, and knows no ids of tokens."""

    def push(self, token):
        raise AssertionError("there is nothing to detokenize")

    def submit(self, prepared, sampling, sink, share=EVERYBODY, cache_salt=""):
        self.last_sampling = sampling
        ticket = Ticket(prepared, sampling, sink, time.monotonic(), share, started_at=time.monotonic())
        pieces = [chr(token).upper() for token in prepared.ids[: sampling.max_new_tokens]]
        ends = [None] * (len(pieces) - 1) + ["length"]
        self.counters.decode_tokens += len(pieces)
        self._publish([TokenEvent(ticket, 0, end, text=text) for text, end in zip(pieces, ends, strict=True)])
        return ticket


ENGINES: list[type[Engine]] = [ShoutingEngine, RelayingEngine]


class Client:
    def __init__(self, url: str, session: aiohttp.ClientSession, engine: Any) -> None:
        self.engine = engine
        self._url, self._session = url, session
        self.port = int(url.rpartition(":")[2])
        self.headers: Any = {}

    async def post(self, path: str, **fields: object) -> tuple[int, str]:
        body, kind = io.BytesIO(json.dumps(fields).encode()), {"Content-Type": "application/json"}
        async with self._session.post(self._url + path, data=body, headers=kind) as response:
            self.headers = response.headers
            return response.status, await response.text()

    async def status(self, path: str) -> int:
        async with self._session.get(self._url + path) as response:
            return response.status

    async def get(self, path: str) -> str:
        async with self._session.get(self._url + path) as response:
            assert response.status == 200
            return await response.text()


@asynccontextmanager
async def serving(folder: Path, engine: type[Engine], **settings: Any) -> AsyncIterator[Client]:
    """The pod's whole HTTP side on an engine of this kind."""
    values = ServeSettings(name="shout", source=f"file://{folder}", temp_dir=str(folder / "temp"), **settings)
    pod = ModelPod(values, folder, engine)
    runner = web.AppRunner(make_app(pod), handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod.start()
    while pod.engine is None:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(f"http://127.0.0.1:{runner.addresses[0][1]}", session, pod.engine)
    finally:
        await runner.cleanup()
        await pod.drain()


@pytest.fixture(params=ENGINES)
async def client(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Client]:
    async with serving(tmp_path, request.param) as client:
        yield client


async def test_generate(client: Client) -> None:
    status, text = await client.post("/generate", prompt="say hi")
    assert status == 200
    assert json.loads(text) == {
        "response": "SAY HI",
        "usage": {"prompt_tokens": 6, "completion_tokens": 6, "total_tokens": 12},
        "model": "shout",
        "finish_reason": "length",
    }


async def test_a_streamed_chat(client: Client) -> None:
    messages = [{"role": "user", "content": "say hi"}]
    status, text = await client.post("/v1/chat/completions", model="shout", messages=messages, stream=True)
    assert status == 200
    events = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    choices = [json.loads(event)["choices"][0] for event in events[:-1]]
    assert "".join(choice["delta"].get("content") or "" for choice in choices) == "SAY HI"
    assert choices[-1]["finish_reason"] == "length"


async def test_sampling_parameters_reach_the_engine(client: Client) -> None:
    sampling: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.4, "top_k": 3, "min_p": 0.2, "repetition_penalty": 1.5, "seed": 7,
        "presence_penalty": 0.5, "frequency_penalty": -0.5,
    }  # fmt: skip
    for path, fields in (
        ("/generate", {"prompt": "hi", "max_new_tokens": 2}),
        ("/v1/completions", {"model": "shout", "prompt": "hi", "max_tokens": 2}),
        ("/v1/chat/completions", {"model": "shout", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}),
    ):
        biases = {"logit_bias": {"5": 1.5, "7": -100}}
        assert (await client.post(path, **fields, **sampling, **biases, ignore_eos=True))[0] == 200
        expected = Sampling(max_new_tokens=2, ignore_eos=True, logit_bias=((5, 1.5), (7, -100.0)), **sampling)
        assert client.engine.last_sampling == expected


async def test_a_key_with_control_characters_is_named_escaped(client: Client) -> None:
    messages = [{"role": "user", "content": "hi"}]
    for key, named in (("a\nb", "a\\nb"), ("x\r\nA: y", "x\\r\\nA: y"), ("é\u2028", "\\xe9\\u2028")):
        for path, fields in (
            ("/generate", {"prompt": "hi"}),
            ("/v1/completions", {"model": "shout", "prompt": "hi"}),
            ("/v1/chat/completions", {"model": "shout", "messages": messages, "stream": True}),
        ):
            status, _ = await client.post(path, **fields, **{key: 1})
            assert (status, client.headers.get("X-AMS-Ignored-Fields")) == (200, named)


@pytest.mark.parametrize("padding", [0, 2 << 20])
async def test_a_body_of_too_many_values_is_refused(client: Client, padding: int) -> None:
    for fields in (
        {"prompt": [[]] * 25_000},
        {"prompt": "x", "y": [{}] * 25_000},
        {"prompt": "x"} | {f"key-{number}": 1 for number in range(25_000)},
    ):
        status, text = await client.post("/v1/completions", model="shout", z="z" * padding, **fields)
        assert (status, json.loads(text)["error"]["code"]) == (413, "body_too_large")


async def test_slow_uploads_keep_nobody_waiting(client: Client) -> None:
    """Three of them had taken all places for large bodies before they had come."""
    slow = []
    for _ in range(3):
        _, writer = await asyncio.open_connection("127.0.0.1", client.port)
        writer.write(b"POST /generate HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n")
        writer.write(b'"' + b"x" * 1_500_000)
        await writer.drain()
        slow.append(writer)
    status, _ = await asyncio.wait_for(client.post("/generate", prompt="hi", x="x" * (2 << 20)), 10)
    assert status == 200
    for writer in slow:
        writer.close()


async def test_a_large_body_is_read_whole(client: Client, tmp_path: Path) -> None:
    status, text = await client.post("/generate", x="x" * (5 << 20), prompt="hi", max_new_tokens=2)
    assert (status, json.loads(text)["response"]) == (200, "HI")
    assert not list((tmp_path / "temp").iterdir())


async def test_a_refusal_of_the_engine_is_an_answer(client: Client) -> None:
    status, text = await client.post("/v1/completions", model="shout", prompt="whisper")
    assert (status, json.loads(text)["error"]["code"]) == (400, "invalid_parameter")
    assert json.loads(text)["error"]["message"] == "This model doesn't whisper."
    status, text = await client.post("/generate", prompt="say hi", image="AAAA")
    assert (status, json.loads(text)["details"]["code"]) == (422, "unsupported_modality")


class HangingEngine(ShoutingEngine):
    """In a process of its own, which hangs."""

    health = EngineHealth(False, False, "It hangs.", restarts=(Restart(time.time(), "stalled", "no token"),))

    def begins(self) -> None:
        self.health = EngineHealth(True, False, "It begins.")


async def test_probes_of_an_engine_beside(tmp_path: Path, client: Client) -> None:
    assert await client.status("/internal/engine/alive") == 200
    with pytest.raises(TimeoutError):  # nobody drains: the engine stays
        await asyncio.wait_for(client.get("/internal/engine/drained"), 0.3)
    async with serving(tmp_path, HangingEngine) as hanging:
        assert await hanging.status("/internal/engine/alive") == 503
        assert json.loads(await hanging.get("/admin/model_status"))["engine"] == "shouting"
        assert await asyncio.wait_for(hanging.get("/internal/engine/drained"), 5) == "{}"
        machine = json.loads(await hanging.get("/internal/timelines"))["machine"]
        assert (machine["engine_restarts"], machine["engine_restart"]) == (1, "no token")
        assert await hanging.status("/internal/engine/alive") == 503
        assert await hanging.status("/internal/engine/alive?start") == 200  # its container has begun anew
        assert await hanging.status("/internal/engine/alive") == 200


async def test_admin_and_metrics(client: Client) -> None:
    assert (await client.post("/generate", prompt="say hi"))[0] == 200
    memory = json.loads(await client.get("/admin/memory_status"))
    del memory["timestamp"]
    assert memory == {
        "model": "shout", "gpu_available": False, "device": "cpu", "ram_total_gb": 8.0, "ram_available_gb": 6.0,
        "process_gb": 1.0, "memory_warning": False, "multimodal_safe": True,
    }  # fmt: skip
    model = json.loads(await client.get("/admin/model_status"))
    assert (model["architecture"], model["state"], model["modalities"]) == ("Shout", "ready", ["text"])
    assert model["engine"] is None
    load = json.loads(await client.get("/load"))
    assert (load["cache_capacity_tokens"], load["generated_tokens"]) == (400, 6)
    assert load["prompt_tokens"] >= 0
    assert load["resident_bytes"] > 1 << 20
    assert "ams_pod_decode_tokens_total 6.0" in (await client.get("/metrics")).splitlines()


def test_the_http_side_needs_no_torch() -> None:
    program = (
        "import sys, ams_pod.serve.server, ams_pod.engines.registry\n"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'safetensors'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.stdout == "[]\n", done.stderr
