"""Embeddings and scores are those of transformers' own forward and the repository's pooling, alone and in batches."""

import asyncio
import base64
import json
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.embedding.pooling import read_pooling
from ams_pod.engines.builtin.loading import choose_family, load_engine
from ams_pod.engines.port import EngineRefusal, LoadFailed, Sampling
from ams_pod.engines.prompts.embedding import is_sentence_transformer
from fakehub import checkpoints
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

pytestmark = pytest.mark.family("embedding")

TEXTS = ["the dog", "what is said in this picture, and why is it blue", "no", "where is the cat " * 20]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folders: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = checkpoints.make(kind, tmp_path_factory.mktemp("embedding") / kind, dtype="float32")
        return folders[kind]

    return of


class Opened:
    """An engine whose thread runs, and what it makes of texts."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        values = ServeSettings(name="m", source=f"file://{folder}", **settings)
        self.engine: Any = load_engine(folder, values, self._publish, lambda phase, percent: None)
        self.thread = threading.Thread(target=self.engine.run, daemon=True)
        self.thread.start()

    def _publish(self, events: list[Any]) -> None:
        for event in events:
            event.ticket.sink(event)

    def all_of(self, prepared: list[Any]) -> list[list[float]]:
        found: dict[int, Any] = {}
        done = threading.Event()

        def sink(number: int, event: Any) -> None:
            found[number] = event
            if len(found) == len(prepared):
                done.set()

        for number, each in enumerate(prepared):
            self.engine.submit(each, Sampling(1), lambda event, number=number: sink(number, event))
        assert done.wait(60)
        assert [event.error for event in found.values()] == [None] * len(prepared)
        return [list(found[number].embedding) for number in range(len(prepared))]

    def close(self) -> None:
        self.engine.stop()
        self.thread.join(10)


def own(folder: Path, text: str, pool: str) -> torch.Tensor:
    """By transformers alone, one text at a time."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        states = model(**inputs).last_hidden_state[0].float()
    return {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pool]


@pytest.mark.parametrize(
    ("kind", "pool", "unit"), [("bert", "mean", True), ("bert_cls", "cls", False), ("qwen3_embedding", "last", True)]
)
def test_vectors_are_those_of_transformers(made: Any, kind: str, pool: str, unit: bool) -> None:
    folder = made(kind)
    opened = Opened(folder)
    try:
        assert opened.engine.info.family == "embedding"
        assert opened.engine.capabilities.features == {"embeddings"}
        assert opened.engine.info.embedding_size == checkpoints.HIDDEN
        texts = [text for text in TEXTS if opened.engine.info.context_tokens > 100 or len(text) < 100]
        together = opened.all_of([opened.engine.prepare_text(text) for text in texts])
        for text, vector in zip(texts, together, strict=True):
            wanted = own(folder, text, pool)
            wanted = wanted / wanted.norm() if unit else wanted
            torch.testing.assert_close(torch.tensor(vector), wanted, atol=1e-3, rtol=1e-3)
        alone = opened.all_of([opened.engine.prepare_text(texts[0])])[0]
        torch.testing.assert_close(torch.tensor(alone), torch.tensor(together[0]), atol=1e-4, rtol=1e-4)
    finally:
        opened.close()


def test_scores_are_those_of_transformers(made: Any) -> None:
    folder = made("bert_reranker")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    opened = Opened(folder)
    try:
        assert opened.engine.capabilities.features == {"rerank"}
        scores = opened.all_of([opened.engine.prepare_pair("where is the dog", text) for text in TEXTS])
        for text, (score,) in zip(TEXTS, scores, strict=True):
            with torch.inference_mode():
                logits = model.eval()(**tokenizer("where is the dog", text, return_tensors="pt")).logits
            assert score == pytest.approx(float(logits.sigmoid()), abs=1e-3)
    finally:
        opened.close()


def test_a_text_that_is_too_long_and_a_token_that_is_none(made: Any) -> None:
    opened = Opened(made("bert"))
    try:
        assert opened.engine.info.context_tokens == 256, "what its authors read"
        with pytest.raises(EngineRefusal, match="maximum context length is 256 tokens"):
            opened.engine.prepare_text("dog " * 400)
        with pytest.raises(EngineRefusal, match="out of range"):
            opened.engine.prepare_ids([10**6])
        with pytest.raises(EngineRefusal, match="no text"):
            opened.engine.prepare_chat([{"role": "user", "content": "hello"}])
        with pytest.raises(EngineRefusal, match="compare"):
            opened.engine.prepare_pair("a", "b")
    finally:
        opened.close()


def test_one_failing_text_fails_alone(made: Any) -> None:
    opened = Opened(made("bert"))
    core = opened.engine.core
    encode = core._encode

    def failing(texts: Any) -> Any:
        if any(list(each.ids) == poison for each in texts):
            raise RuntimeError("poison")
        return encode(texts)

    poison = list(opened.engine.prepare_text("no").ids)
    core._encode = failing
    try:
        events: list[Any] = []
        done = threading.Event()

        def sink(event: Any) -> None:
            events.append(event)
            if len(events) == 3:
                done.set()

        for text in ("the dog", "no", "the cat"):
            opened.engine.submit(opened.engine.prepare_text(text), Sampling(1), sink)
        assert done.wait(60)
        assert sorted(event.finish for event in events) == ["failed", "stop", "stop"]
    finally:
        opened.close()


def test_the_family_of_a_decoder_for_embeddings_is_told_by_its_files(made: Any) -> None:
    folder = made("qwen3_embedding")
    config = json.loads((folder / "config.json").read_text())
    assert is_sentence_transformer(folder)
    assert choose_family("auto", config, makes_embeddings=True) == "embedding"
    assert choose_family("auto", config) == "text"
    assert choose_family("text", config, makes_embeddings=True) == "text"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("modules.json", "{", "isn't"),
        ("modules.json", '[{"type": "x.Transformer", "path": "../.."}]', "modules.json can't be used"),
        ("modules.json", '[{"type": "x.CLIPModel", "path": ""}]', "CLIPModel"),
        ("1_Pooling/config.json", '{"include_prompt": false, "pooling_mode_mean_tokens": true}', "include_prompt"),
        ("1_Pooling/config.json", "[]", "config.json can't be used"),
    ],
)
def test_files_that_make_no_sense_are_refused(tmp_path: Path, name: str, content: str, says: str) -> None:
    checkpoints.make("bert", tmp_path / "m", dtype="float32")
    (tmp_path / "m" / name).write_text(content)
    with pytest.raises(LoadFailed) as refused:
        read_pooling(tmp_path / "m", "cpu")
    assert says in str(refused.value) or "can't be used" in str(refused.value)


async def test_over_http(made: Any, tmp_path: Path) -> None:
    """Vectors in their order, as numbers and base64, cut, by ids; scores; and what is wrong."""
    import aiohttp
    from aiohttp import web
    from ams_pod.serve.app import make_app
    from ams_pod.serve.pod import ModelPod

    folder = made("bert")
    settings = ServeSettings(name="emb", source=f"file://{folder}", temp_dir=str(tmp_path / "temp"))
    pod = ModelPod(settings, folder)
    runner = web.AppRunner(make_app(pod), handler_cancellation=True, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    pod.start()
    while pod.engine is None:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with aiohttp.ClientSession() as client:

        async def post(path: str, **body: Any) -> tuple[int, Any]:
            async with client.post(base + path, json={"model": "emb"} | body) as answer:
                return answer.status, await answer.json()

        status, told = await post("/v1/embeddings", input=["the dog", "a cat"])
        assert status == 200
        assert [each["index"] for each in told["data"]] == [0, 1]
        assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > 0
        vectors = [each["embedding"] for each in told["data"]]
        assert sum(value * value for value in vectors[0]) == pytest.approx(1, abs=1e-4)
        _, alone = await post("/v1/embeddings", input="a cat", encoding_format="base64")
        packed = base64.b64decode(alone["data"][0]["embedding"])
        assert struct.unpack(f"<{checkpoints.HIDDEN}f", packed) == pytest.approx(vectors[1], abs=1e-4)
        _, cut = await post("/v1/embeddings", input="a cat", dimensions=8)
        short = cut["data"][0]["embedding"]
        assert len(short) == 8
        assert sum(value * value for value in short) == pytest.approx(1, abs=1e-4)
        ids = (await post("/tokenize", prompt="a cat"))[1]["tokens"]
        _, by_ids = await post("/v1/embeddings", input=[ids, ids])
        assert by_ids["data"][1]["embedding"] == pytest.approx(vectors[1], abs=1e-4)
        status, order = await post("/v1/rerank", query="a cat", documents=["the dog", {"text": "a cat"}], top_n=1,
                                   return_documents=True)  # fmt: skip
        assert status == 200
        assert order["results"][0]["index"] == 1
        assert order["results"][0]["document"] == {"text": "a cat"}
        assert order["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-3)
        for path, body, says in (
            ("/v1/embeddings", {"input": ""}, "empty"),
            ("/v1/embeddings", {"input": ["a", ""]}, "empty"),
            ("/v1/embeddings", {"input": []}, "input"),
            ("/v1/embeddings", {"input": ["a", 1]}, "input"),
            ("/v1/embeddings", {"input": ["a"] * 2049}, "2049 texts"),
            ("/v1/embeddings", {"input": "a", "dimensions": 65}, "64 values"),
            ("/v1/embeddings", {"input": "a", "prompt_name": "query"}, "no prompt"),
            ("/v1/embeddings", {"input": "dog " * 400}, "maximum context length"),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "no text"),
            ("/v1/completions", {"prompt": "a"}, "no text"),
            ("/v1/rerank", {"query": "", "documents": ["a"]}, "query"),
            ("/v1/rerank", {"query": "a", "documents": []}, "documents"),
        ):
            status, told = await post(path, **body)
            assert status == 400, told
            assert says in told["error"]["message"], told
        async with client.get(f"{base}/load") as answer:
            assert (await answer.json())["prompt_tokens"] > 0
    await runner.cleanup()
    await pod.drain()
