"""Embeddings: encoders and decoders whose states are pooled into a vector, and cross-encoders that score pairs."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ams_common.families import BY_NAME, modalities_of
from ams_common.lifecycle import Phase
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from ams_pod.engines.builtin.embedding.core import EmbeddingCore
from ams_pod.engines.builtin.embedding.engine import EmbeddingEngine
from ams_pod.engines.builtin.embedding.pooling import Pooling, read_pooling
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory import placing
from ams_pod.engines.builtin.memory.placing import Placement, place_weights
from ams_pod.engines.builtin.model.weights import (
    count_parameters,
    load_processor,
    load_weights,
    weight_bytes,
)
from ams_pod.engines.port import Capabilities, Feature, ModelInfo, Prepared
from ams_pod.engines.prompts.embedding import (
    EmbeddingPrompts,
    check_one_score,
    longest_text,
    scores_are_logits,
    scores_pairs,
)
from ams_pod.engines.prompts.folder import read_model_config

PRELOAD = (
    "transformers.models.bert.modeling_bert",
    "transformers.models.xlm_roberta.modeling_xlm_roberta",
    "transformers.models.qwen3.modeling_qwen3",
)
_FLOAT32_PARAMETERS = 700_000_000  # on a CPU: small models are as fast in float32, and exact
_MAY_LACK = frozenset({"pooler"})  # a part that no pooled vector comes through


def open_family(request: LoadRequest) -> EmbeddingEngine:
    config = read_model_config(request.folder)
    tokenizer = load_processor(AutoTokenizer, request.folder)
    scores = scores_pairs(config)
    inputs = placing.measure(request.folder, config, request.settings, request.device, request.dtype)
    if request.device == "cpu" and request.settings.precision == "auto" and inputs.parameters < _FLOAT32_PARAMETERS:
        inputs = placing.measure(request.folder, config, request.settings, request.device, torch.float32)

    def build(placement: Placement) -> EmbeddingEngine:
        request.report(Phase.BUILDING, None)
        made = AutoModelForSequenceClassification if scores else AutoModel
        model = load_weights(
            made, request.folder, placement, request.report, BY_NAME["embedding"].unquantized, may_lack=_MAY_LACK
        )
        return _engine(model, config, tokenizer, placement, request, scores=scores)

    return place_weights(inputs, build)


def _engine(
    model: Any, config: dict[str, Any], tokenizer: Any, placement: Placement, request: LoadRequest, *, scores: bool
) -> EmbeddingEngine:
    request.report(Phase.WARMING_UP, None)
    pooling = read_pooling(request.folder, request.device)
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    context = longest_text(model.config.get_text_config().to_dict(), pooling.longest, request.settings.context_tokens)
    pad = tokenizer.pad_token_id or 0
    encode = _scores(model, config, pad) if scores else _vectors(model, pooling, pad)
    core = EmbeddingCore(encode, request.settings.concurrent_requests, context, request.publish, placement.device)
    sizes = encode([Prepared(fast.encode("hello").ids), Prepared(fast.encode("hello there").ids)]).shape
    info = ModelInfo(
        architecture=type(model).__name__,
        family="embedding",
        device=placement.device,
        precision=str(placement.dtype).removeprefix("torch."),
        parameters=count_parameters(model),
        weights_bytes=weight_bytes(model),
        context_tokens=context,
        cache_bytes_per_token=0,
        concurrent_requests=request.settings.concurrent_requests,
        engine="embedding",
        quantization=placement.quantization,
        quantization_reason=placement.reason,
        vocabulary=model.get_input_embeddings().num_embeddings,
        embedding_size=None if scores else int(sizes[1]),
    )
    features: set[Feature] = {"rerank"} if scores else {"embeddings"}
    capabilities = Capabilities(
        modalities_of("embedding"), frozenset(features), prompts=pooling.prompts, default_prompt=pooling.default_prompt
    )
    prompts = EmbeddingPrompts(fast, context, info.vocabulary or 0, pairs=scores, lower_case=pooling.lower_case)
    return EmbeddingEngine(info, capabilities, prompts, core)


def _vectors(model: Any, pooling: Pooling, pad: int) -> Callable[[Sequence[Prepared]], Tensor]:
    def encode(texts: Sequence[Prepared]) -> Tensor:
        inputs = _batch(model, texts, pad)
        with torch.inference_mode():
            states = model(**inputs, return_dict=True).last_hidden_state
            return pooling(states, inputs["attention_mask"])

    return encode


def _scores(model: Any, config: dict[str, Any], pad: int) -> Callable[[Sequence[Prepared]], Tensor]:
    check_one_score(model.config.num_labels)
    plain = scores_are_logits(config)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = pad

    def encode(pairs: Sequence[Prepared]) -> Tensor:
        with torch.inference_mode():
            logits = model(**_batch(model, pairs, pad), return_dict=True).logits[:, :1].float()
            return logits if plain else torch.sigmoid(logits)

    return encode


def _batch(model: Any, texts: Sequence[Prepared], pad: int) -> dict[str, Tensor]:
    """input_ids and attention_mask [texts, tokens], padded behind; token_type_ids where the model tells texts apart."""
    longest = max(len(each.ids) for each in texts)
    ids = torch.full((len(texts), longest), pad)
    mask = torch.zeros(len(texts), longest, dtype=torch.long)
    kinds = torch.zeros(len(texts), longest, dtype=torch.long)
    for index, each in enumerate(texts):
        ids[index, : len(each.ids)] = torch.tensor(each.ids)
        mask[index, : len(each.ids)] = 1
        if each.media is not None:
            kinds[index, : len(each.ids)] = torch.tensor(each.media)
    made = {"input_ids": ids, "attention_mask": mask}
    if getattr(model.config, "type_vocab_size", 0) > 1:
        made["token_type_ids"] = kinds
    return {name: value.to(model.device) for name, value in made.items()}
