"""A server that speaks as vLLM and as llama.cpp do, and breaks as they can: what it says of each request is scripted.

    python fake_engine.py --port 8000 --script script.json

Tokens are `100, 101, …`; it writes one byte of `alive` for each request that it sees end early.
"""

import argparse
import asyncio
import base64
import contextlib
import json
import math
import os
import struct
import sys
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Script:
    """How it behaves. `per_chunk` tokens come in a chunk; `fault` is what goes wrong, at token `at`."""

    dialect: str = "vllm"
    per_chunk: int = 1
    seconds: float = 0.0  # between chunks
    fault: str = ""  # "close", "garbage", "exit", "hang", "400", "500", "503", "error-event", "too-long"
    at: int = 3
    times: int = 1 << 30  # that the fault happens
    eos: int | None = None  # token that ends each answer after `at` tokens
    ids: bool = True
    key: str = ""
    adapters: int = 2  # that it says it has loaded
    length: float = 1.0  # of its vectors
    refuses: str = ""  # adapters whose path holds it
    load_seconds: float = 0.0  # that it takes to load an adapter
    version: str = "1.2.3+cpu"
    newer: bool = True  # SGLang from 0.5.18


@dataclass
class FakeEngine:
    script: Script
    asked: list[dict[str, Any]] = field(default_factory=list)
    running: int = 0
    left: int = 0
    slept: int = 0
    woken: int = 0
    asleep: bool = False
    hanging: bool = False
    dead: bool = False
    adapters_asked: list[tuple[str, str]] = field(default_factory=list)  # (what of it, its name), in order
    loaded: dict[str, str] = field(default_factory=dict)  # adapters by name, with their paths
    asked_facts: list[str] = field(default_factory=list)
    vector: Any = None  # what a text's vector is, as it goes over the wire, in place of its ids

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/health", self.health)
        app.router.add_get("/v1/models", self.models)
        app.router.add_get("/version", self.version)
        if self.script.dialect == "sglang":
            app.router.add_get("/get_server_info", self.server_info)
            if self.script.newer:
                app.router.add_get("/server_info", self.server_info)
        app.router.add_get("/props", self.props)
        app.router.add_get("/lora-adapters", self.adapters)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_post("/v1/completions", self.answer)
        app.router.add_post("/v1/chat/completions", self.answer)
        app.router.add_post("/completion", self.answer)
        app.router.add_post("/v1/embeddings", self.pool)
        app.router.add_post("/v1/score", self.pool)
        for prefix in ("", "/v1"):
            app.router.add_post(f"{prefix}/load_lora_adapter", self.load_adapter)
            app.router.add_post(f"{prefix}/unload_lora_adapter", self.unload_adapter)
        app.router.add_post("/sleep", self.sleep)
        app.router.add_post("/wake_up", self.wake)
        return app

    async def health(self, request: web.Request) -> web.Response:
        if self.hanging:
            await asyncio.sleep(3600)
        return web.Response(status=503 if self.dead else 200)

    async def models(self, request: web.Request) -> web.Response:
        meta = {"n_ctx": 512, "n_params": 1000, "n_vocab": 400, "ftype": "Q4_1", "size": 600}
        others = [{"id": f"adapter-{number}"} for number in range(self.script.adapters)]
        others = others if self.script.dialect == "vllm" else []
        others += [{"id": name} for name in self.loaded]
        return web.json_response({"data": [{"id": "the-model", "max_model_len": 512, "meta": meta}, *others]})

    async def adapters(self, request: web.Request) -> web.Response:
        return web.json_response(
            [{"id": number, "path": f"{number}.gguf", "scale": 1.0} for number in range(self.script.adapters)]
        )

    async def version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": self.script.version})

    async def server_info(self, request: web.Request) -> web.Response:
        self.asked_facts.append(request.path)
        return web.json_response({"version": self.script.version, "context_length": None, "internal_states": [{}]})

    async def props(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"default_generation_settings": {"n_ctx": 512}, "total_slots": 4, "build_info": "b1", "modalities": {}}
        )

    async def metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            text=f'# HELP x\nvllm:num_requests_running{{engine="0"}} {self.running}.0\nvllm:num_requests_waiting 0\n'
            'vllm:cache_config_info{block_size="16",num_gpu_blocks="100"} 1.0\n'
            f"vllm:kv_cache_usage_perc 0.25\nllamacpp:requests_processing {self.running}\n"
        )

    async def load_adapter(self, request: web.Request) -> web.Response:
        """As vLLM answers at /v1, and SGLang without."""
        body, mine = await request.json(), request.path.startswith("/v1")
        name, path = body["lora_name"], body["lora_path"]
        assert mine == (self.script.dialect == "vllm")
        assert not self.asleep, "it was to load an adapter while it slept"
        self.adapters_asked.append(("load", name))
        await asyncio.sleep(self.script.load_seconds)
        complaint = ""
        if name in self.loaded:
            complaint = f"The lora adapter '{name}' has already been loaded."
        elif self.script.refuses and self.script.refuses in path:
            complaint = "LoRA rank 64 is greater than max_lora_rank 16." if "rank" in path else "it doesn't like it"
        else:
            self.loaded[name] = path
        if mine:
            status = 400 if "already" in complaint else 500 if complaint else 200
            return web.json_response({"error": {"message": complaint}} if complaint else "Success", status=status)
        answer = {"success": not complaint, "error_message": complaint, "loaded_adapters": self.loaded}
        return web.json_response(answer, status=400 if complaint else 200)

    async def unload_adapter(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.adapters_asked.append(("unload", name))
        return web.json_response({}, status=200 if self.loaded.pop(name, None) else 404)

    async def sleep(self, request: web.Request) -> web.Response:
        assert request.query["level"] == "1"
        self.asleep, self.slept = True, self.slept + 1
        return web.Response()

    async def wake(self, request: web.Request) -> web.Response:
        self.asleep, self.woken = False, self.woken + 1
        return web.Response()

    async def pool(self, request: web.Request) -> web.StreamResponse:
        """A vector of four numbers, whose angle is the text's first token in thousandths; a score of 0.25."""
        body = await request.json()
        self.asked.append({"path": request.path, **body})
        if (refused := self._refused(len(self.asked) > 1)) is not None:
            return refused
        if self.script.seconds:
            await asyncio.sleep(self.script.seconds)
        if request.path == "/v1/score":
            entry: dict[str, Any] = {"index": 0, "score": 0.25}
            prompt = 7
        else:
            angle = body["input"][0] / 1000
            values = [math.cos(angle) * self.script.length, math.sin(angle) * self.script.length, 0.0, 0.0]
            entry = {"index": 0, "embedding": base64.b64encode(struct.pack("<4f", *values)).decode()}
            prompt = len(body["input"])
        if self.vector is not None:
            entry["embedding"] = self.vector
        return web.json_response({"data": [entry], "usage": {"prompt_tokens": prompt, "total_tokens": prompt}})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append({"path": request.path, **body})
        assert not self.asleep, "it was asked while it slept"
        if (refused := self._refused(True)) is not None:
            return refused
        if self.script.fault == "dying-core" and body.get("max_tokens") == self.script.at:
            self.dead = True
            asyncio.get_running_loop().call_later(1.5, os._exit, 0)
            return web.json_response({"error": {"message": "EngineCore encountered an issue."}}, status=500)
        if self.script.fault == "no-media-arguments" and "media_io_kwargs" in body:
            message = "Per-request mm_processor_kwargs are disabled by default"
            error = {"message": message, "param": "mm_processor_kwargs", "code": 400}
            return web.json_response({"error": error}, status=400)
        script = self.script
        fault = script.fault if script.times > 0 and script.fault != "no-media-arguments" else ""
        self.running += 1
        try:
            return await self._stream(request, body, fault)
        except (ConnectionResetError, asyncio.CancelledError):
            self.left += 1
            raise
        finally:
            self.running -= 1

    def _refused(self, now: bool) -> web.Response | None:
        """The answer of a fault that comes in front of any token, where it comes `now`."""
        script = self.script
        fault = script.fault if script.times > 0 and now else ""
        if fault in ("400", "500", "503"):
            script.times -= 1
            return web.json_response({"error": {"message": "it doesn't like this"}}, status=int(fault))
        if fault == "too-long":
            message = "This model's maximum context length is 512 tokens. However, you requested 900 tokens."
            return web.json_response({"error": {"message": message}}, status=400)
        if fault == "dead-core":
            self.dead = True
            return web.json_response({"error": {"message": "EngineCore encountered an issue."}}, status=500)
        return None

    async def _stream(self, request: web.Request, body: dict[str, Any], fault: str) -> web.StreamResponse:
        script = self.script
        wanted = body.get("max_tokens") or body.get("n_predict") or 5
        tokens = [100 + number % 90 for number in range(wanted)]
        finish = "length"
        if script.eos is not None and len(tokens) > script.at:
            tokens, finish = [*tokens[: script.at], script.eos], "stop"
        if not body.get("stream"):
            return web.json_response(self._whole(body, tokens, finish))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for first in range(0, len(tokens), script.per_chunk):
            some = tokens[first : first + script.per_chunk]
            if fault and first + len(some) > script.at:
                script.times -= 1
                await self._break(request, response, fault)
                return response
            if script.seconds:
                await asyncio.sleep(script.seconds)
            last = first + len(some) >= len(tokens)
            for event in self._events(body, some, first + len(some), finish if last else None):
                await response.write(f"data: {json.dumps(event)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    async def _break(self, request: web.Request, response: web.StreamResponse, fault: str) -> None:
        assert request.transport is not None
        match fault:
            case "close":
                request.transport.abort()
            case "garbage":
                await response.write(b"data: {not json\n\n")
            case "exit":
                os._exit(9)
            case "hang":
                self.hanging = True
                await asyncio.sleep(3600)
            case "stall":
                await asyncio.sleep(3600)
            case "refusal-event":  # as SGLang tells of a grammar that it can't compile
                error = {"object": "error", "message": "Invalid grammar request", "type": "BAD_REQUEST", "code": 400}
                await response.write(f"data: {json.dumps({'error': error})}\n\n".encode())
            case "error-event":
                await response.write(b'data: {"error": {"message": "it broke inside"}}\n\n')

    def _events(self, body: dict[str, Any], tokens: list[int], count: int, finish: str | None) -> list[dict[str, Any]]:
        prompt = len(body.get("prompt", [1, 2, 3]))
        if "n_predict" in body:
            events: list[dict[str, Any]] = [
                {
                    "index": 0,
                    "content": f"w{token} ",
                    "tokens": [token],
                    "tokens_predicted": count - len(tokens) + at + 1,
                }
                for at, token in enumerate(tokens)
            ]
            if finish:
                kind = "limit" if finish == "length" else "eos"
                end = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": kind}
                events.append({**end, "tokens_predicted": count, "tokens_evaluated": prompt, "timings": {"cache_n": 2}})
            return events
        text = "".join(f"w{token} " for token in tokens)
        usage: dict[str, Any] = {"prompt_tokens": prompt, "completion_tokens": count}
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"delta": {"content": text}} if "messages" in body else {"text": text}
        if self.script.ids and body.get("return_token_ids") and self.script.newer:
            choice["token_ids"] = tokens
        if body.get("logprobs") is not None and "messages" not in body:
            choice["logprobs"] = {
                "tokens": [f"token_id:{token}" for token in tokens],
                "token_logprobs": [-0.5] * len(tokens),
                "top_logprobs": [{f"token_id:{token}": -0.5, "token_id:7": -2.0} for token in tokens],
            }
        events = [{"choices": [choice], "usage": usage}]
        if finish:
            events.append({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 2}}})
        return events

    def _whole(self, body: dict[str, Any], tokens: list[int], finish: str) -> dict[str, Any]:
        [event, *_] = self._events(body, tokens, len(tokens), finish)
        asked = [None, *({str(token): {"logprob": -1.0}, "9": {"logprob": -0.1}} for token in body["prompt"][1:])]
        event["choices"][0]["prompt_logprobs"] = asked
        return event


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--script", default="{}")
    parser.add_argument("--fail", default="")
    arguments = parser.parse_args(argv)
    if arguments.fail:
        print("INFO starting", arguments.fail, sep="\n", flush=True)
        sys.exit(3)
    engine = FakeEngine(Script(**json.loads(arguments.script)))
    print("Loading safetensors checkpoint shards:  50% Completed", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        web.run_app(engine.app(), host="127.0.0.1", port=arguments.port, print=None, access_log=None)


if __name__ == "__main__":
    main(sys.argv[1:])
