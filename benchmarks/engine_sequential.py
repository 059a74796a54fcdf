"""The baseline of engine.py: transformers' generate, one request at a time, behind aiohttp.

usage: engine_sequential.py MODEL_FOLDER PORT
"""

import asyncio
import json
import sys
import threading
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
import torch
import transformers
from aiohttp import web
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


def main(folder: str, port: int) -> None:
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    turn = asyncio.Lock()

    async def chat(request: web.Request) -> web.StreamResponse:
        fields = await request.json()
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with turn:
            count = 0
            async for text in _generate(model, tokenizer, fields):
                count += 1
                await response.write(_event(choices=[{"index": 0, "delta": {"content": text}}]))
        tokens = fields["max_tokens"]
        await response.write(_event(choices=[], usage={"completion_tokens": tokens, "prompt_tokens": 0}))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/ready", ready)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


async def _generate(model: Any, tokenizer: Any, fields: dict[str, Any]) -> Any:
    inputs = tokenizer.apply_chat_template(
        fields["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    tokens = fields["max_tokens"]
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "do_sample": False, "streamer": streamer}
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **options})
    thread.start()
    iterator = iter(streamer)
    while (text := await asyncio.to_thread(next, iterator, None)) is not None:
        if text:
            yield text
    thread.join()


def _event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
