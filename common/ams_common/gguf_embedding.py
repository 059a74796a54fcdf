"""GGUF files of models that make vectors or scores: what their metadata tells, and how an engine is told it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

Pooling = Literal["none", "mean", "cls", "last", "rank"]
"""How states become a vector, in llama.cpp's words; `rank`: they become the score of a pair of texts."""

DESCRIPTION = "gguf-embedding.json"  # beside what is made of such a file
EMBEDDING_FILES = ("modules.json", DESCRIPTION)  # one of which says that a folder's model makes vectors or scores
# What stands, in a command that is written before the file is there, for how it pools and how long a text may be.
POOLING_WORD, LONGEST_WORD = "{pooling}", "{longest-text}"
WORD_FILES = {POOLING_WORD: "pooling", LONGEST_WORD: "longest-text"}  # beside the link to it: what each word stands for
LONGEST_TEXT = 8192  # tokens, where nobody asks for others

_POOLINGS: dict[int, Pooling] = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
# Of llama.cpp: architectures that make nothing but vectors, as transformers calls them where it has them.
_ENCODERS = {
    "bert": "BertModel", "nomic-bert": "NomicBertModel", "nomic-bert-moe": "NomicBertModel", "neo-bert": "NeoBERT",
    "jina-bert-v2": "JinaBertModel", "jina-bert-v3": "XLMRobertaModel", "modern-bert": "ModernBertModel",
    "eurobert": "EuroBertModel", "gemma-embedding": "Gemma3TextModel", "llama-embed": "LlamaModel",
}  # fmt: skip
_DECODERS = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "mistral3": "Mistral"}
_WORD_PIECES = "bert"  # of tokenizers: that of BERT itself
_MOST = 1 << 24  # of sizes that a model has
_LONGEST_NAME = 40


class Description(msgspec.Struct, frozen=True):
    """What is told of such a file beside its config.json. Its tokenizer isn't read: texts go to the engine.

    `context_tokens` is what the model was made for, None where the file is silent.
    """

    pooling: Pooling = "none"
    context_tokens: int | None = None

    def words(self) -> dict[str, str]:
        """What words in a command stand for."""
        return {POOLING_WORD: self.pooling, LONGEST_WORD: str(min(LONGEST_TEXT, self.context_tokens or LONGEST_TEXT))}


@dataclass(frozen=True, slots=True)
class GgufEmbedding:
    """`config` is its config.json."""

    pooling: Pooling
    config: Mapping[str, Any]


def gguf_embedding(metadata: Mapping[str, Any]) -> GgufEmbedding | None:
    """Of a file's metadata; None for one of a model that writes."""
    name = str(metadata.get("general.architecture"))
    told = metadata.get(f"{name}.pooling_type")
    pooling = _POOLINGS.get(told, "none") if type(told) is int else "none"
    if name not in _ENCODERS and pooling == "none":
        return None
    plain = "".join(each for each in name if (each.isascii() and each.isalnum()) or each in "-_")[:_LONGEST_NAME]
    kind = _ENCODERS.get(name) or f"{_DECODERS.get(name, plain.title())}Model"
    scores = pooling == "rank"
    if scores:
        kind = kind.removesuffix("Model") + "ForSequenceClassification"

    def size(key: str) -> int | None:
        value = metadata.get(f"{name}.{key}")
        return value if type(value) is int and 0 < value < _MOST else None

    tokens, word_pieces = metadata.get("tokenizer.ggml.tokens"), metadata.get("tokenizer.ggml.model") == _WORD_PIECES
    types = metadata.get("tokenizer.ggml.token_type_count")
    found = {
        "architectures": [kind],
        "model_type": plain.replace("-", "_"),
        "hidden_size": size("embedding_length"),
        "num_hidden_layers": size("block_count"),
        "num_attention_heads": size("attention.head_count"),
        "intermediate_size": size("feed_forward_length"),
        "max_position_embeddings": size("context_length"),
        "vocab_size": len(tokens) if isinstance(tokens, list) and tokens else None,
        # Only this tokenizer says which of two texts a token is of.
        "type_vocab_size": types if word_pieces and type(types) is int and 0 < types < _MOST else 1,
        "is_decoder": name not in _ENCODERS,
        "num_labels": _labels(metadata, name) if scores else None,
    }
    return GgufEmbedding(pooling, {key: value for key, value in found.items() if value is not None})


def _labels(metadata: Mapping[str, Any], name: str) -> int:
    """Classes that it tells apart. Of a yes and a no that a decoder answers, the yes alone is told."""
    labels = metadata.get(f"{name}.classifier.output_labels")
    return len(labels) if isinstance(labels, list) and labels and name in _ENCODERS else 1
