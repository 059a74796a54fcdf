"""Listings of a hub's models, and the one answer that operator, `ams plan` and the pod's download give for each."""

import json
from dataclasses import dataclass, field

from fakehub.repository import Repository, Zeros

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 1024,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    "torch_dtype": "bfloat16",
}
INDEX = "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARD_BYTES = 300
SIGNATURE = {"publicKey": "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n"}
UNSIGNED = "has no model.sig, which spec.model.signature asks for"


@dataclass(frozen=True)
class Listing:
    """A model of the hub. It is served with `weights_bytes` of weights, or refused with `reason` and these words."""

    name: str
    files: dict[str, object]
    weights_bytes: int = 0
    reason: str = ""
    words: str = ""
    spec: dict[str, object] = field(default_factory=dict)  # of its ModelDeployment, beside the source
    options: str = ""  # of the source, such as ?file=


def _index(*shards: str) -> bytes:
    return json.dumps({"weight_map": {f"layer.{number}": shard for number, shard in enumerate(shards)}}).encode()


def _model(**files: object) -> dict[str, object]:
    return {"config.json": json.dumps(CONFIG).encode(), "tokenizer.json": b"{}"} | files


def _weights(*paths: str, size: int = SHARD_BYTES) -> dict[str, object]:
    return {path: Zeros(size) for path in paths}


LISTINGS = (
    Listing("one-file", _model() | _weights("model.safetensors"), weights_bytes=SHARD_BYTES),
    Listing("shards", _model() | _weights(*SHARDS) | {INDEX: _index(*SHARDS)}, weights_bytes=2 * SHARD_BYTES),
    Listing(
        "pickles-only",
        _model() | _weights("pytorch_model.bin"),
        reason="PickledWeights",
        words="has only pickled weights (pytorch_model.bin), which can run code when they are loaded",
    ),
    Listing(
        "pickles-that-are-trusted",
        _model() | _weights("pytorch_model.bin", "optimizer.pt"),
        weights_bytes=SHARD_BYTES,
        spec={"env": [{"name": "AMS_ALLOW_PICKLE", "value": "true"}]},
    ),
    Listing(
        "safetensors-in-a-folder",
        _model() | _weights("original/model.safetensors"),
        reason="InvalidSource",
        words="has no weights in its top folder that this runtime can load",
    ),
    Listing(
        "no-config",
        {"tokenizer.json": b"{}"} | _weights("model.safetensors"),
        reason="InvalidSource",
        words="has no config.json: it isn't a model that this runtime can load",
    ),
    Listing(
        "a-shard-is-missing",
        _model() | _weights(SHARDS[0]) | {INDEX: _index(*SHARDS)},
        reason="InvalidSource",
        words=f"is incomplete: {INDEX} names {SHARDS[1]}, which isn't there",
    ),
    Listing(
        "a-stray-file-beside-an-index",
        _model() | _weights(*SHARDS, "stray.safetensors") | {INDEX: _index(*SHARDS)},
        weights_bytes=2 * SHARD_BYTES,
    ),
    Listing(
        "the-same-weights-twice",
        _model() | _weights("model.safetensors", size=2 * SHARD_BYTES) | _weights(*SHARDS) | {INDEX: _index(*SHARDS)},
        weights_bytes=2 * SHARD_BYTES,
    ),
    Listing(
        "an-index-that-is-none",
        _model() | _weights(*SHARDS) | {INDEX: b"{}"},
        reason="InvalidSource",
        words=f"{INDEX} can't be read",
    ),
    Listing(
        "the-layout-of-another-program",
        _model() | _weights("consolidated.safetensors", "model.safetensors"),
        weights_bytes=SHARD_BYTES,
    ),
    Listing("nothing-but-text", _model(), reason="InvalidSource", words="has no weights in its top folder"),
    Listing(
        "no-gguf-named",
        _model() | _weights("q4.gguf", "q8.gguf"),
        reason="InvalidSource",
        words="has GGUF files; name one with ?file=: q4.gguf, q8.gguf",
    ),
    Listing(
        "a-gguf-that-is-absent",
        _weights("q4.gguf"),
        reason="InvalidSource",
        words="has no file 'q8.gguf'; its GGUF files: q4.gguf",
        options="?file=q8.gguf",
    ),
)


def repository(listing: Listing) -> Repository:
    model = Repository(f"acme/{listing.name}")
    model.commit(listing.files)  # type: ignore[arg-type]
    return model


def source(listing: Listing) -> str:
    return f"hf://acme/{listing.name}{listing.options}"
