"""Vectors and scores of an engine of another make, as a scripted server plays it: our prompts, and what comes back."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from ams_pod.engines.openai.dialects.sglang import SGLang
from ams_pod.engines.openai.dialects.vllm import Vllm
from ams_pod.engines.openai.embedding import labels_of, why_not
from ams_pod.engines.port import EngineRefusal, LoadFailed, TokenEvent
from ams_pod.engines.prompts.embedding import EmbeddingRecipe, Layer
from fakehub import checkpoints
from other_engine_harness import beside
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("bert", tmp_path_factory.mktemp("model") / "bert")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("bert_reranker", tmp_path_factory.mktemp("model") / "reranker")


def first_token(event: TokenEvent) -> int:
    """Of the text whose vector this is, as the scripted engine makes them."""
    assert event.embedding is not None
    return round(1000 * math.atan2(event.embedding[1], event.embedding[0]))


async def test_a_text_goes_as_ids_and_comes_back_as_a_vector(folder: Path) -> None:
    async with beside(folder) as one:
        assert (one.engine.info.family, one.engine.info.embedding_size) == ("embedding", 4)
        assert one.engine.capabilities.features == {"embeddings"}
        prepared = one.engine.prepare_text("the dog")
        assert list(prepared.ids) == Tokenizer.from_file(str(folder / "tokenizer.json")).encode("the dog").ids
        [event] = await one.wait(one.submit(prepared))
        assert event.finish == "stop"
        assert first_token(event) == prepared.ids[0]
        assert one.fake is not None
        assert one.fake.asked[-1] == {
            "path": "/v1/embeddings",
            "model": "the-model",
            "input": list(prepared.ids),
            "encoding_format": "base64",
        }
        assert one.engine.counters.prefill_tokens == len(prepared.ids)
        assert one.engine.counters.decode_tokens == 0
        assert event.ticket.compute_seconds > 0
        [work] = one.engine.counters.by_key.values()
        assert (work.prompt_tokens, work.answer_seconds) == (len(prepared.ids), 0)
        assert work.prompt_seconds == pytest.approx(event.ticket.compute_seconds)


async def test_a_pair_goes_as_texts_and_comes_back_as_a_score(reranker: Path) -> None:
    async with beside(reranker) as one:
        assert (one.engine.capabilities.features, one.engine.info.embedding_size) == ({"rerank"}, None)
        prepared = one.engine.prepare_pair("where is it", "the dog")
        assert len(prepared.ids) == len(one.engine.prepare_text("where is it").ids) + 3
        [event] = await one.wait(one.submit(prepared))
        assert event.embedding == [0.25]
        assert one.fake is not None
        asked = one.fake.asked[-1]
        assert (asked["path"], asked["text_1"], asked["text_2"]) == ("/v1/score", "where is it", "the dog")


async def test_many_texts_wait_for_their_turn(folder: Path) -> None:
    async with beside(folder, seconds=0.01) as one:
        tickets = [one.submit(one.engine.prepare_ids([number, 3])) for number in range(40)]
        found = [first_token(event) for ticket in tickets for event in await one.wait(ticket)]
        assert found == [*range(40)]


async def test_a_text_may_fill_the_whole_context_and_no_more(folder: Path) -> None:
    async with beside(folder) as one:
        assert one.engine.info.context_tokens == 256  # of sentence_bert_config.json; the engine says 512
        [event] = await one.wait(one.submit(one.engine.prepare_ids([5] * 256)))
        assert event.embedding is not None
        with pytest.raises(EngineRefusal, match="256"):
            one.engine.prepare_ids([5] * 257)
        with pytest.raises(EngineRefusal, match="out of range"):
            one.engine.prepare_ids([1 << 20])


async def test_such_a_model_writes_nothing(folder: Path) -> None:
    async with beside(folder) as one:
        with pytest.raises(EngineRefusal, match="makes embeddings, and no text"):
            one.engine.prepare_chat([{"role": "user", "content": "Hello"}])
        with pytest.raises(EngineRefusal, match="doesn't compare texts"):
            one.engine.prepare_pair("a", "b")


@pytest.mark.parametrize(
    ("vector", "sentence"),
    [
        ("AAAAAA==AAAA", "what is no vector"),
        ("not base64!", "what is no vector"),
        ("AAA=", "what is no vector"),
        ("AADAfwAAAAAAAAAAAAAAAA==", "aren't numbers"),  # NaN
        ([], "aren't numbers, or none"),
        ([1.0, 2.0], "it has 2 values, and others have 4"),
        ({"a": 1}, "what is no vector"),
    ],
)
async def test_what_is_no_vector_is_a_failure_of_its_request(folder: Path, vector: Any, sentence: str) -> None:
    async with beside(folder) as one:
        assert one.fake is not None
        one.fake.vector = vector
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert event.finish == "failed"
        assert sentence in str(event.error)
        one.fake.vector = None
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert event.embedding is not None


async def test_refusals_and_failures_of_the_engine(folder: Path) -> None:
    async with beside(folder, fault="400") as one:
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert isinstance(event.error, EngineRefusal)
        assert "refuses the request: it doesn't like this" in str(event.error)
    async with beside(folder, fault="503", times=2) as one:  # it has no room for a moment
        [event] = await one.wait(one.submit(one.engine.prepare_text("the dog")))
        assert event.embedding is not None


async def test_an_engine_that_makes_no_vectors_is_found_out_at_once(folder: Path) -> None:
    with pytest.raises(LoadFailed, match=r"SGLang can't serve this model.*last token of qwen2 and qwen3 alone"):
        async with beside(folder, "sglang"):
            pass


async def test_rerankers_are_none_of_sglangs(reranker: Path) -> None:
    with pytest.raises(LoadFailed, match=r"SGLang isn't asked for reranking here"):
        async with beside(reranker, "sglang"):
            pass


async def test_sglang_gives_vectors_of_the_last_token(tmp_path: Path) -> None:
    folder = checkpoints.make("qwen3_embedding", tmp_path / "qwen3")
    async with beside(folder, "sglang", {"family": "embedding"}) as one:
        [event] = await one.wait(one.submit(one.engine.prepare_ids([7, 8])))
        assert first_token(event) == 7
        assert one.fake is not None
        asked = one.fake.asked[-1]
        assert (asked["path"], asked["input"], asked["encoding_format"]) == ("/v1/embeddings", [7, 8], "float")


async def test_a_folder_that_does_not_say_how_to_pool_is_refused(tmp_path: Path) -> None:
    folder = checkpoints.make("bert", tmp_path / "silent")
    (folder / "modules.json").unlink()
    with pytest.raises(LoadFailed, match=r"has no modules\.json"):
        async with beside(folder, settings={"family": "embedding"}):
            pass


async def test_vectors_that_are_not_normalized_as_the_folder_says_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="doesn't normalize"):
        async with beside(folder, length=2.0):
            pass
    plain = checkpoints.make("bert_cls", tmp_path / "plain")  # which says that they aren't
    async with beside(plain, length=2.0) as one:
        assert one.engine.info.embedding_size == 4


async def test_several_classes_are_no_score(tmp_path: Path) -> None:
    folder = checkpoints.make("bert_reranker", tmp_path / "classes")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadFailed, match="tells 3 classes apart"):
        async with beside(folder):
            pass


def test_what_is_pooled_otherwise_than_the_authors_do_is_refused() -> None:
    assert why_not(EmbeddingRecipe(("mean",), (Layer("normalize"),), said=True), Vllm(), {}) is None
    assert why_not(EmbeddingRecipe(("last",), (), said=True), Vllm(), {}) is None
    for recipe, words in (
        (EmbeddingRecipe(), "modules.json"),
        (EmbeddingRecipe(("cls", "mean"), said=True), "cls and mean"),
        (EmbeddingRecipe(("max",), said=True), "pooled by max"),
        (EmbeddingRecipe(("mean",), (Layer("dense", "2_Dense"),), said=True), "Dense"),
    ):
        assert words in (why_not(recipe, Vllm(), {}) or "")


def test_which_models_sglang_pools_as_their_authors_do() -> None:
    last = EmbeddingRecipe(("last",), (Layer("normalize"),), said=True)
    assert why_not(last, SGLang(), {"model_type": "qwen3"}) is None
    assert why_not(last, SGLang(), {"model_type": "llama"}) is not None
    assert why_not(EmbeddingRecipe(("last",), (), said=True), SGLang(), {"model_type": "qwen3"}) is not None
    assert why_not(EmbeddingRecipe(("cls",), last.layers, said=True), SGLang(), {"model_type": "qwen3"}) is not None


def test_classes_of_a_configuration() -> None:
    assert [labels_of(each) for each in ({}, {"num_labels": 1}, {"id2label": {"0": "x"}})] == [2, 1, 1]
    assert math.isfinite(labels_of({"num_labels": "many"}))
