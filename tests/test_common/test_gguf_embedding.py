"""What the metadata of a GGUF file tells of a model that makes vectors or scores."""

from typing import Any

import pytest
from ams_common.gguf_embedding import gguf_embedding

TOKENS = {"tokenizer.ggml.tokens": ["a", "b", "c"], "tokenizer.ggml.token_type_count": 2}


def told(architecture: str, **values: Any) -> dict[str, Any]:
    own = {f"{architecture}.{name.replace('__', '.')}": value for name, value in values.items()}
    return {"general.architecture": architecture, **TOKENS, **own}


@pytest.mark.parametrize(
    ("metadata", "pooling", "architecture", "is_decoder"),
    [
        (told("bert", pooling_type=1), "mean", "BertModel", False),
        (told("bert", pooling_type=2), "cls", "BertModel", False),
        (told("bert"), "none", "BertModel", False),
        (told("bert", pooling_type=77), "none", "BertModel", False),
        (told("bert", pooling_type="mean"), "none", "BertModel", False),
        (told("bert", pooling_type=True), "none", "BertModel", False),
        (told("bert", pooling_type=4), "rank", "BertForSequenceClassification", False),
        (told("nomic-bert-moe", pooling_type=1), "mean", "NomicBertModel", False),
        (told("gemma-embedding", pooling_type=1), "mean", "Gemma3TextModel", False),
        (told("qwen3", pooling_type=3), "last", "Qwen3Model", True),
        (told("qwen3", pooling_type=4), "rank", "Qwen3ForSequenceClassification", True),
        (told("zebra", pooling_type=3), "last", "ZebraModel", True),
    ],
)
def test_of_which_file_it_is_told(metadata: Any, pooling: str, architecture: str, is_decoder: bool) -> None:
    found = gguf_embedding(metadata)
    assert found is not None
    assert (found.pooling, found.config["architectures"]) == (pooling, [architecture])
    assert found.config["is_decoder"] == is_decoder
    assert found.config["vocab_size"] == 3


@pytest.mark.parametrize("metadata", [{}, told("qwen3"), told("llama", pooling_type=0), {"general.architecture": 5}])
def test_of_which_it_is_not(metadata: Any) -> None:
    assert gguf_embedding(metadata) is None


def test_sizes_that_are_none_are_left_out() -> None:
    found = gguf_embedding(told("bert", embedding_length=-1, block_count="many", context_length=1 << 40))
    assert found is not None
    assert not {"hidden_size", "num_hidden_layers", "max_position_embeddings"} & found.config.keys()
    found = gguf_embedding(told("bert", embedding_length=64, context_length=512, attention__head_count=4))
    assert found is not None
    assert (found.config["hidden_size"], found.config["max_position_embeddings"]) == (64, 512)


def test_a_name_is_of_letters() -> None:
    found = gguf_embedding(told("<b>\n\u202ezebra" * 20, pooling_type=1))
    assert found is not None
    [name] = found.config["architectures"]
    assert name.isalnum()
    assert len(name) < 60


def test_only_berts_own_tokenizer_tells_texts_apart() -> None:
    for model, types in (("bert", 2), ("t5", 1), ("gpt2", 1)):
        found = gguf_embedding(told("bert", pooling_type=4) | {"tokenizer.ggml.model": model})
        assert found is not None
        assert found.config["type_vocab_size"] == types


@pytest.mark.parametrize(
    ("architecture", "labels", "number"),
    [("bert", ["a"], 1), ("bert", ["a", "b", "c"], 3), ("qwen3", ["yes", "no"], 1), ("bert", [], 1), ("bert", 5, 1)],
)
def test_how_many_classes_there_are(architecture: str, labels: Any, number: int) -> None:
    found = gguf_embedding(told(architecture, pooling_type=4, classifier__output_labels=labels))
    assert found is not None
    assert found.config["num_labels"] == number
