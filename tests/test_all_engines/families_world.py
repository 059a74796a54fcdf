"""Tiny models of families that take more than text, or make vectors; what is asked of them, and what comes back.

Their weights are random, so that answers mean nothing: what an engine computes is compared with the builtin engine's on
the same folder in float32, as the probabilities of the first token and how long the prompt was.
"""

import base64
import contextlib
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
from fakehub import checkpoints, embedding_gguf
from test_all_engines import world
from test_all_engines.world import Running
from test_media import media_files

ENGINES = ("builtin", "llamacpp", "vllm")
ONE_TYPE = "one_type_reranker"  # a cross-encoder that isn't told which of two texts a token is of
# Else vLLM counts the frames of a video as one a second.
ARGUMENTS = {("vllm", kind): ["--trust-request-mm-kwargs"] for kind in ("qwen2_5_vl", "qwen2_5_omni")}
HIDDEN = 128  # vLLM's kernels for CPUs have no heads smaller than 32


def reads(engine: str, kind: str) -> bool:
    """Whether an engine is to be tried with a kind: llama.cpp with those that become GGUF files here."""
    return engine != "llamacpp" or kind in _GGUF


def folder_of(kind: str, scratch: Path) -> Path:
    """The tiny checkpoint of a kind."""
    with mock.patch.object(checkpoints, "HIDDEN", HIDDEN):
        if kind == ONE_TYPE:
            with mock.patch.object(checkpoints, "_bert_config", partial(checkpoints._bert_config, type_vocab_size=1)):
                return checkpoints.make("bert_reranker", scratch / kind, dtype="float32")
        folder = checkpoints.make(kind, scratch / kind, dtype="float32")
    if kind == "qwen3_embedding":  # as the authors' models have it, without longer contexts than they were trained on
        path = folder / "config.json"
        plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        path.write_text(json.dumps(json.loads(path.read_text()) | plain))
    return folder


_GGUF = {
    "bert": embedding_gguf.bert_gguf,
    "qwen3_embedding": embedding_gguf.qwen3_gguf,
    ONE_TYPE: partial(embedding_gguf.bert_gguf, pooling=embedding_gguf.SCORE),
}


def _source(engine: str, kind: str, folder: Path) -> str:
    if engine != "llamacpp":
        return f"file://{folder}"
    return f"file://{_GGUF[kind](folder, folder.with_name(f'{kind}.gguf'))}"


@contextlib.contextmanager
def serving(engine: str, kind: str, scratch: Path) -> Iterator[Running]:
    """`ams up` with the kind on the engine."""
    run = scratch / engine
    run.mkdir()
    folder = scratch / kind if (scratch / kind).is_dir() else folder_of(kind, scratch)
    limits = {"contextTokens": 1024} if kind.startswith("qwen2") else {}
    arguments = ARGUMENTS.get((engine, kind), ())
    precision = "auto" if engine == "llamacpp" else "float32"
    source = _source(engine, kind, folder)
    with world.serving(engine, run, source, limits, precision=precision, arguments=arguments) as running:
        yield running


def image(seed: int) -> dict[str, Any]:
    pixels = np.random.default_rng(seed).integers(0, 256, (84, 112, 3), np.uint8)
    data = media_files.saved(PIL.Image.fromarray(pixels), "PNG")
    return {"type": "image_url", "image_url": {"url": _url("image/png", data)}}


def sound() -> dict[str, Any]:
    data = media_files.sound("wav", "pcm_s16le", seconds=1.5)
    return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": "wav"}}


def video(*, with_sound: bool = False) -> dict[str, Any]:
    data = media_files.video(size=(112, 84), frames=20, sound_codec="aac" if with_sound else None)
    return {"type": "video_url", "video_url": {"url": _url("video/mp4", data)}}


def _url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64," + base64.b64encode(data).decode()


@dataclass(frozen=True)
class Seen:
    """Of one chat: tokens of its prompt, and the natural logarithms of the likeliest first tokens' probabilities."""

    prompt_tokens: int
    likeliest: dict[str, float]

    def is_like(self, other: "Seen", tolerance: float) -> bool:
        both = self.likeliest.keys() & other.likeliest.keys()
        near = all(abs(self.likeliest[each] - other.likeliest[each]) < tolerance for each in both)
        return self.prompt_tokens == other.prompt_tokens and len(both) >= len(self.likeliest) - 1 and near


def chat(running: Running, *parts: dict[str, Any]) -> Seen:
    """One token of an answer to these parts and a text."""
    content = [*parts, {"type": "text", "text": "what is it"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0}
    status, answer = running.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 5})
    assert status == 200, answer
    [told] = answer["choices"][0]["logprobs"]["content"]
    likeliest = {bytes(each["bytes"]).hex(): each["logprob"] for each in told["top_logprobs"]}
    return Seen(answer["usage"]["prompt_tokens"], likeliest)


def transcription(running: Running) -> tuple[int, dict[str, Any]]:
    """Of a recording, as a form."""
    mark = uuid.uuid4().hex
    data = media_files.sound("wav", "pcm_s16le", seconds=2.0)
    fields = {"model": world.MODEL, "response_format": "verbose_json", "temperature": "0"}
    form = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    )
    form += f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    form += data + f"\r\n--{mark}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    request = urllib.request.Request(running.url + "/v1/audio/transcriptions", form, headers)
    try:
        with urllib.request.urlopen(request, timeout=world.PATIENCE_SECONDS) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read() or b"{}")
