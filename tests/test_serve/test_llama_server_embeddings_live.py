"""A real llama-server that makes vectors and scores: those of the same weights in transformers, whatever goes on.

Its program is found by AMS_LLAMA_SERVER or on the PATH; else these tests are skipped.
"""

import asyncio
import base64
import functools
import json
import math
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
import pytest
import torch
from ams_common.engines.llamacpp import ROW
from ams_common.engines.wishes import EngineWishes
from ams_pod.engines.builtin.embedding.pooling import read_pooling
from fakehub import checkpoints
from fakehub.embedding_gguf import MEAN, SCORE, bert_gguf, qwen3_gguf
from test_serve.live_pods import LivePod, pod_process
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForSequenceClassification

PROGRAM = os.environ.get("AMS_LLAMA_SERVER") or shutil.which("llama-server")
pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no llama-server: neither AMS_LLAMA_SERVER nor on the PATH"),
    pytest.mark.timeout(180),
]
SLOTS = 8
TEXTS = ["the dog", "what is said in this picture, and why is it blue", "no", "where is the cat " * 12, "Zürich ﬁ 你好"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints, each with a GGUF file of its weights beside."""
    root = tmp_path_factory.mktemp("checkpoints")
    made = {kind: checkpoints.make(kind, root / kind, dtype="float32") for kind in ("bert", "qwen3_embedding")}
    config = made["qwen3_embedding"] / "config.json"
    plain = json.loads(config.read_text()) | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    config.write_text(json.dumps(plain))
    one_type = functools.partial(checkpoints._bert_config, type_vocab_size=1)
    with mock.patch.object(checkpoints, "_bert_config", one_type):
        made["reranker"] = checkpoints.make("bert_reranker", root / "reranker", dtype="float32")
    made["two_types"] = checkpoints.make("bert_reranker", root / "two_types", dtype="float32")
    for kind in ("bert", "reranker", "two_types"):
        bert_gguf(made[kind], root / f"{kind}.gguf", pooling=MEAN if kind == "bert" else SCORE)
    qwen3_gguf(made["qwen3_embedding"], root / "qwen3_embedding.gguf")
    return made


@contextmanager
def serving(gguf: Path, folder: Path, *, embeds: bool = True, **wished: Any) -> Iterator[LivePod]:
    """A pod with the file, as `ams up` starts it; not ready yet."""
    models = folder / "models"
    words = ["download", "--source", f"file://{gguf}", "--models-dir", str(models), "--engine", "llamacpp"]
    subprocess.run(
        [sys.executable, "-m", "ams_pod", *words, "--progress-port", "-1"], check=True, capture_output=True, timeout=100
    )
    wishes = EngineWishes(
        model="{model}", name="m", host="127.0.0.1", port="{port}", concurrent_requests=SLOTS, embeds=embeds, cpus=2,
        **wished,
    )  # fmt: skip
    command = [str(PROGRAM), *ROW.full_command(wishes)[1:]]
    settings = {"context_tokens": wished["context_tokens"]} if "context_tokens" in wished else {}
    with pod_process(
        folder, gguf, "m", models_dir=models, engine="llamacpp", engine_command=json.dumps(command),
        engine_log=folder / "engine.log", concurrent_requests=SLOTS, **settings,
    ) as (pod, _):  # fmt: skip
        yield pod


@pytest.fixture(scope="module", params=["bert", "qwen3_embedding"])
def pod(
    request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LivePod, Path]]:
    folder = folders[request.param]
    with serving(folder.with_name(f"{folder.name}.gguf"), tmp_path_factory.mktemp("pod")) as pod:
        yield pod.wait_ready(), folder


def vectors(pod: LivePod, texts: Any, **fields: Any) -> Any:
    answer = pod.client.post("/v1/embeddings", {"model": "m", "input": texts, **fields})
    assert answer.status == 200, answer.text
    return answer.json()


def tokenizer_of(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def reference(folder: Path, texts: list[str]) -> list[list[float]]:
    tokenizer, model, pooling = (
        tokenizer_of(folder),
        AutoModel.from_pretrained(folder).eval(),
        read_pooling(folder, "cpu"),
    )
    found = []
    for text in texts:
        ids = torch.tensor([tokenizer.encode(text).ids])
        with torch.inference_mode():
            found.append(pooling(model(ids).last_hidden_state, torch.ones_like(ids))[0].tolist())
    return found


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)


def test_vectors_are_those_of_the_same_weights(pod: tuple[LivePod, Path]) -> None:
    live, folder = pod
    answer, tokenizer = vectors(live, TEXTS), tokenizer_of(folder)
    for each, expected in zip(answer["data"], reference(folder, TEXTS), strict=True):
        assert cosine(each["embedding"], expected) > 0.9999
    assert answer["usage"]["prompt_tokens"] == sum(len(tokenizer.encode(text).ids) for text in TEXTS)
    again = vectors(live, TEXTS)  # what a slot holds of another text changes nothing
    assert all(
        cosine(one["embedding"], other["embedding"]) > 0.99999
        for one, other in zip(answer["data"], again["data"], strict=True)
    )


def test_ids_dimensions_and_base64(pod: tuple[LivePod, Path]) -> None:
    live, folder = pod
    [whole] = vectors(live, ["the dog"])["data"]
    ids = tokenizer_of(folder).encode("the dog").ids
    [of_ids] = vectors(live, [ids])["data"]
    assert cosine(whole["embedding"], of_ids["embedding"]) > 0.99999
    [short] = vectors(live, "the dog", dimensions=8, encoding_format="base64")["data"]
    values = list(struct.unpack("<8f", base64.b64decode(short["embedding"])))
    assert math.hypot(*values) == pytest.approx(1, abs=1e-4)
    assert cosine(values, whole["embedding"][:8]) > 0.9999


def test_what_it_cannot_take_is_said(pod: tuple[LivePod, Path]) -> None:
    live, _ = pod
    for wrong, code in (
        ("word " * 9000, "context_length_exceeded"),
        ([[1 << 20]], "invalid_parameter"),
        ("", "missing_prompt"),
    ):
        answer = live.client.post("/v1/embeddings", {"model": "m", "input": wrong})
        assert (answer.status, answer.json()["error"]["code"]) == (400, code), answer.text
    assert live.client.post("/tokenize", {"model": "m", "prompt": "the dog"}).status == 400
    assert live.client.post("/detokenize", {"model": "m", "tokens": [5]}).status == 400
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    assert live.client.post("/v1/chat/completions", chat).status == 400
    vectors(live, "the dog")


def test_a_hundred_texts_and_long_ones_at_once(pod: tuple[LivePod, Path]) -> None:
    live, folder = pod
    texts = [f"the dog number {number}" for number in range(100)]
    answer = vectors(live, texts)
    assert [each["index"] for each in answer["data"]] == [*range(100)]
    for at in (0, 37, 99):
        assert cosine(answer["data"][at]["embedding"], reference(folder, [texts[at]])[0]) > 0.9999
    longest = live.client.get("/admin/model_status").json()["context_tokens"]
    tokenizer = tokenizer_of(folder)
    word, fixed = len(tokenizer.encode("cat cat").ids) - len(tokenizer.encode("cat").ids), len(tokenizer.encode("").ids)
    long = "cat " * ((longest - fixed) // word)
    answer = vectors(live, [f"{long.strip()}"] * (2 * SLOTS))
    assert answer["usage"]["prompt_tokens"] > 2 * SLOTS * longest * 0.95
    assert cosine(answer["data"][-1]["embedding"], answer["data"][0]["embedding"]) > 0.9999


def engine_pid(pod: LivePod) -> int:
    lines = [line for line in pod.log.read_text().splitlines() if "engine started as process" in line]
    return int(lines[-1].split("engine started as process ")[1].split(":")[0])


def test_an_engine_that_is_killed_is_started_again(pod: tuple[LivePod, Path]) -> None:
    live, folder = pod

    async def ask(session: aiohttp.ClientSession, number: int) -> str:
        body = {"model": "m", "input": [f"the dog {number} " * 40] * 8}
        async with session.post("http://pod/v1/embeddings", json=body) as response:
            found = await response.json()
            return "done" if response.status == 200 else str(found["error"]["code"])

    async def run() -> Counter[str]:
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(live.socket), limit=0)) as session:
            tasks = [asyncio.create_task(ask(session, number)) for number in range(40)]
            await asyncio.sleep(0.1)
            os.kill(engine_pid(live), signal.SIGKILL)
            for task in tasks[-10:]:
                task.cancel()  # clients that leave meanwhile
            found = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
            return Counter(str(each) for each in found)

    outcomes = asyncio.run(run())
    assert outcomes["done"] + outcomes["backend_failed"] >= 30, outcomes
    [after] = vectors(live, ["the dog"])["data"]
    assert cosine(after["embedding"], reference(folder, ["the dog"])[0]) > 0.9999
    live.until_load(in_flight=0, queued=0)


def test_a_number_of_tokens_bounds_texts(folders: dict[str, Path], tmp_path: Path) -> None:
    gguf = folders["bert"].with_name("bert.gguf")
    with serving(gguf, tmp_path, context_tokens=64) as pod:
        live = pod.wait_ready()
        assert live.client.get("/admin/model_status").json()["context_tokens"] == 64
        assert len(vectors(live, ["cat " * 62] * 20)["data"]) == 20
        answer = live.client.post("/v1/embeddings", {"model": "m", "input": "cat " * 63})
        assert answer.json()["error"]["code"] == "context_length_exceeded", answer.text


def test_scores_are_the_builtin_engines(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["reranker"]
    tokenizer, model = tokenizer_of(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with serving(folder.with_name("reranker.gguf"), tmp_path) as pod:
        live = pod.wait_ready()
        answer = live.client.post("/v1/rerank", {"model": "m", "query": "the dog", "documents": [*TEXTS, ""]}).json()
        found = {each["index"]: each["relevance_score"] for each in answer["results"]}
        tokens = 0
        for at, text in enumerate([*TEXTS, ""]):
            ids = tokenizer.encode("the dog", text).ids
            tokens += len(ids)
            with torch.inference_mode():
                expected = torch.sigmoid(model(torch.tensor([ids])).logits).item()
            assert found[at] == pytest.approx(expected, abs=1e-4)
        assert answer["usage"]["prompt_tokens"] == tokens
        body = {"model": "m", "query": "x", "documents": ["word " * 5000]}
        assert live.client.post("/v1/rerank", body).json()["error"]["code"] == "context_length_exceeded"
        assert live.client.post("/v1/embeddings", {"model": "m", "input": "x"}).status == 400


def test_scores_that_would_be_others_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(folders["two_types"].with_name("two_types.gguf"), tmp_path) as pod:
        until_told(pod, "told by types of tokens which of two texts")


def test_an_engine_that_was_started_for_texts_says_what_to_set(folders: dict[str, Path], tmp_path: Path) -> None:
    with serving(folders["bert"].with_name("bert.gguf"), tmp_path, embeds=False) as pod:
        until_told(pod, "set spec.model.family: embedding")


def until_told(pod: LivePod, words: str) -> None:
    """Wait until the pod says why it serves nothing."""
    deadline = time.monotonic() + 60
    while words not in pod.log.read_text():
        assert time.monotonic() < deadline, pod.log.read_text()
        time.sleep(0.1)
