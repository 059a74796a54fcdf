"""Vectors and scores from an engine of another make: our prompts, its pooling, where that is what the folder says."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from ams_common.families import language_config

from ams_pod.engines.openai.core import Core, Terms
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.engine import OtherEngine
from ams_pod.engines.openai.http import EngineUnreachable, fetch
from ams_pod.engines.openai.loops import run_on
from ams_pod.engines.openai.pieces import Asked, Held, Pair, Task
from ams_pod.engines.openai.supervisor import Supervisor
from ams_pod.engines.port import (
    Capabilities,
    Constraint,
    EngineError,
    LoadFailed,
    ModelInfo,
    Prepared,
    Sampling,
)
from ams_pod.engines.prompts.embedding import (
    EmbeddingPrompts,
    EmbeddingRecipe,
    Layer,
    check_one_score,
    longest_text,
    read_recipe,
    scores_pairs,
)

_POOLS = (("cls",), ("mean",), ("last",))
_UNIT = 0.02  # of a vector's length, in 16 bits
_FIRST_SECONDS = 120.0  # an engine may compile for its first text
_FIRST_TEXTS = ("hello", "hello there")


class OtherEmbeddingEngine(OtherEngine):
    """Makes vectors of texts, or scores of pairs of them, and no text."""

    _least_answer: ClassVar[int] = 0

    def __init__(
        self,
        info: ModelInfo,
        capabilities: Capabilities,
        prompts: EmbeddingPrompts,
        dialect: Dialect,
        core: Core,
        supervisor: Supervisor,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(info, capabilities, prompts, dialect, core, supervisor, loop)
        self._texts = prompts

    def prepare_pair(self, query: str, text: str) -> Prepared:
        return prepared_pair(self._texts, query, text)

    def prepare_constraint(self, constraint: Constraint) -> Held:
        self._texts.refuse()


def prepared_pair(prompts: EmbeddingPrompts, query: str, text: str) -> Prepared:
    """EngineRefusal where the model compares no texts, or they are too long together."""
    ids, _ = prompts.pair(query, text)
    return Prepared(ids, media=Pair(prompts.cased(query), prompts.cased(text)))


def why_not(recipe: EmbeddingRecipe, title: str) -> str | None:
    """Why the engine's vectors would be others than the authors' and the builtin engine's; None: they are the same."""
    if not recipe.said:
        return (
            f"the folder has no modules.json, without which {title} pools in a way of its own; the builtin engine takes"
            " the mean of all tokens"
        )
    if tuple(recipe.pools) not in _POOLS:
        return f"its vectors are pooled by {' and '.join(recipe.pools)}, which only the builtin engine does"
    if any(layer.kind == "dense" for layer in recipe.layers):
        return "its vectors pass a layer behind pooling (Dense), which only the builtin engine computes"
    return None


Describe = Callable[[int], tuple[ModelInfo, Terms]]
"""What is known of the engine beside its vectors, from how many tokens a text may have."""


def embedding_engine(
    folder: Path,
    config: Mapping[str, Any],
    tokenizer: Any,
    setting: int,
    dialect: Dialect,
    core: Core,
    supervisor: Supervisor,
    loop: asyncio.AbstractEventLoop,
    described: Describe,
) -> OtherEmbeddingEngine:
    """`setting` is limits.contextTokens, 0 for none. LoadFailed where the engine doesn't make the model's vectors."""
    if not dialect.embeds:
        raise LoadFailed(f"{dialect.title} isn't asked for embeddings here; they are for the builtin engine and vLLM")
    recipe = read_recipe(folder)
    pairs = scores_pairs(config)
    if pairs:
        check_one_score(labels_of(config))
    elif (reason := why_not(recipe, dialect.title)) is not None:
        raise LoadFailed(f"{dialect.title} can't serve this model: {reason}")
    own = language_config(config)
    told = supervisor.state.facts.context_tokens
    context = longest_text(own, recipe.longest, setting)
    info, terms = described(min(context, told) if told else context)
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    vocabulary = info.vocabulary or fast.get_vocab_size()
    prompts = EmbeddingPrompts(fast, info.context_tokens, vocabulary, pairs=pairs, lower_case=recipe.lower_case)
    task: Task = "score" if pairs else "embed"
    terms = replace(terms, task=task)
    first = run_on(loop, _first_vector(prompts, terms, dialect, supervisor))
    size = len(first)
    if pairs and size != 1:
        raise LoadFailed(f"{dialect.title} gives {size} scores for a pair; one that reranks has one")
    if not pairs and Layer("normalize") in recipe.layers and abs(math.hypot(*first) - 1) > _UNIT:
        raise LoadFailed(f"{dialect.title} doesn't normalize this model's vectors, as its modules.json says")
    info = replace(info, family="embedding", embedding_size=None if pairs else size)
    capabilities = Capabilities(
        ("text",),
        frozenset({"rerank"} if pairs else {"embeddings"}),
        prompts=recipe.prompts,
        default_prompt=recipe.default_prompt,
    )
    loop.call_soon_threadsafe(core.begin, supervisor.address, replace(terms, vector_size=size))
    return OtherEmbeddingEngine(info, capabilities, prompts, dialect, core, supervisor, loop)


async def _first_vector(
    prompts: EmbeddingPrompts, terms: Terms, dialect: Dialect, supervisor: Supervisor
) -> Sequence[float]:
    """The vector of a first text, or a score. LoadFailed without one, as of an engine that was started for chats."""
    first = prepared_pair(prompts, *_FIRST_TEXTS) if terms.task == "score" else prompts.text(_FIRST_TEXTS[0])
    pair = first.media if isinstance(first.media, Pair) else None
    asked = Asked(first.ids, Sampling(max_new_tokens=1), terms.model, terms.context_tokens, task=terms.task, pair=pair)
    path, body = dialect.request(asked)
    try:
        answer = await fetch(supervisor.address, path, method="POST", body=body, seconds=_FIRST_SECONDS)
        if answer.status != 200:
            raise dialect.failure(answer.status, answer.body, asked)
        return dialect.vector(answer.body, 0).embedding or ()
    except (EngineUnreachable, EngineError) as error:
        raise LoadFailed(f"{dialect.title} makes no embeddings of this model: {error}") from None


def labels_of(config: Mapping[str, Any]) -> int:
    """Classes that a model with a head tells apart; two where config.json is silent, as transformers has it."""
    number, names = config.get("num_labels"), config.get("id2label")
    if isinstance(names, Mapping):
        return len(names)
    return number if isinstance(number, int) else 2
