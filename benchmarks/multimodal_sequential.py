"""The baseline of multimodal.py: transformers' processor and generate behind aiohttp, one request at a time.

usage: multimodal_sequential.py image|audio|omni MODEL_FOLDER PORT THREADS
"""

import asyncio
import base64
import io
import sys
from pathlib import Path
from typing import Any

import ams_pod.engines.builtin  # noqa: F401  # makes torchvision importable
import numpy as np
import torch
import transformers
from aiohttp import web
from ams_pod.engines.builtin.families import family_module
from ams_pod.media.audio import decode_audio
from ams_pod.media.images import decode_image
from ams_pod.media.limits import MediaLimits
from ams_pod.media.watch import Watch

RATE = 16_000
FAMILIES = {"image": "vision-language", "audio": "audio-language", "omni": "omni"}


class Model:
    def __init__(self, kind: str, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        loaded = family_module(FAMILIES[kind]).recipe(folder).model_class.from_pretrained(folder, dtype=torch.bfloat16)
        self._model = loaded.eval()
        self._processor = transformers.AutoProcessor.from_pretrained(folder)
        self._omni = kind == "omni"

    def answer(self, fields: dict[str, Any]) -> int:
        """Decode, process, generate; the number of new tokens."""
        images = [_image(fields["image"])] if "image" in fields else []
        sounds = [_sound(fields["audio"])] if "audio" in fields else []
        parts = [{"type": "image"}] * len(images) + [{"type": "audio"}] * len(sounds)
        message = {"role": "user", "content": [*parts, {"type": "text", "text": fields["prompt"]}]}
        text = self._processor.apply_chat_template([message], add_generation_prompt=True, tokenize=False)
        arguments: dict[str, Any] = {"text": [text], "return_tensors": "pt"}
        if images:
            arguments["images"] = images
        if sounds:
            options = {"sampling_rate": RATE} | ({"max_length": 30 * RATE} if self._omni else {})
            arguments |= {"audio": sounds, "audio_kwargs": options}
        inputs = self._processor(**arguments)
        for name, value in inputs.items():
            if torch.is_tensor(value) and value.is_floating_point():
                inputs[name] = value.to(torch.bfloat16)
        count = fields["max_new_tokens"]
        with torch.inference_mode():
            made = self._model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return int(made.shape[1] - inputs["input_ids"].shape[1])


def main(kind: str, folder: str, port: int, threads: int) -> None:
    transformers.logging.set_verbosity_error()
    model = Model(kind, Path(folder), threads)
    turn = asyncio.Lock()

    async def generate(request: web.Request) -> web.Response:
        fields = await request.json()
        async with turn:
            tokens = await asyncio.to_thread(model.answer, fields)
        return web.json_response({"response": "", "usage": {"completion_tokens": tokens}})

    async def ready(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=64 << 20)
    app.router.add_post("/generate", generate)
    app.router.add_get("/ready", ready)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


def _image(text: str) -> np.ndarray[Any, Any]:
    return decode_image(io.BytesIO(base64.b64decode(text)), "image", MediaLimits(), _watch()).pixels


def _sound(text: str) -> np.ndarray[Any, Any]:
    return decode_audio(io.BytesIO(base64.b64decode(text)), "audio", RATE, MediaLimits(), _watch()).samples


def _watch() -> Watch:
    made = Watch(600.0)
    made.item("item")
    return made


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
