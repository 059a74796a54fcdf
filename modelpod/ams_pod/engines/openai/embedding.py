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
from ams_pod.engines.openai.http import EngineUnreachable
from ams_pod.engines.openai.loops import run_on
from ams_pod.engines.openai.pieces import Held, Pair, Task, VectorForm, Written
from ams_pod.engines.openai.supervisor import Supervisor
from ams_pod.engines.openai.trying_vectors import FIRST_PAIRS, FIRST_TEXT, tried_score_form, tried_vector_form
from ams_pod.engines.port import (
    Capabilities,
    Constraint,
    LoadFailed,
    ModelInfo,
    Prepared,
)
from ams_pod.engines.prompts.embedding import (
    EmbeddingPrompts,
    EmbeddingRecipe,
    Layer,
    UnreadPrompts,
    check_one_score,
    longest_text,
    read_recipe,
    scores_pairs,
)

_POOLS = (("cls",), ("mean",), ("last",))
_UNIT = 0.02  # of a vector's length, in 16 bits


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
        vector_form: VectorForm,
    ) -> None:
        super().__init__(info, capabilities, prompts, dialect, core, supervisor, loop)
        self._texts, self._vector_form = prompts, vector_form

    def prepare_text(self, text: str) -> Prepared:
        prepared = self._texts.text(text)
        return prepared if self._vector_form.prompt == "ids" else replace(prepared, media=self._as_text(text))

    def prepare_ids(self, ids: Sequence[int]) -> Prepared:
        """As the text that they stand for, where the engine takes no ids: it puts its own tokens around that."""
        prepared = self._texts.ids(ids)
        if self._vector_form.prompt == "ids" or self._dialect.takes_vector_ids:
            return prepared
        return replace(prepared, media=self._as_text(self._texts.plain_text_of(ids)))

    def prepare_pair(self, query: str, text: str) -> Prepared:
        return prepared_pair(self._texts, query, text)

    def prepare_constraint(self, constraint: Constraint) -> Held:
        self._texts.refuse()

    def _as_text(self, text: str) -> Written:
        return Written(self._texts.cased(text))


def prepared_pair(prompts: EmbeddingPrompts, query: str, text: str) -> Prepared:
    """EngineRefusal where the model compares no texts, or they are too long together."""
    ids, _ = prompts.pair(query, text)
    return Prepared(ids, media=Pair(prompts.cased(query), prompts.cased(text)))


def why_not(recipe: EmbeddingRecipe, dialect: Dialect, config: Mapping[str, Any]) -> str | None:
    """Why the engine's vectors would be others than the authors' and the builtin engine's; None: they are the same."""
    if not recipe.said:
        return (
            f"the folder has no modules.json, without which {dialect.title} pools in a way of its own; the builtin"
            " engine takes the mean of all tokens"
        )
    if tuple(recipe.pools) not in _POOLS:
        return f"its vectors are pooled by {' and '.join(recipe.pools)}, which only the builtin engine does"
    if any(layer.kind == "dense" for layer in recipe.layers):
        return "its vectors pass a layer behind pooling (Dense), which only the builtin engine computes"
    kinds = dialect.decoders_alone
    if kinds is None:
        return None
    kind = language_config(config).get("model_type")
    if tuple(recipe.pools) != ("last",) or Layer("normalize") not in recipe.layers or kind not in kinds:
        return (
            f"it is asked for normalized vectors of the last token of {' and '.join(sorted(kinds))} alone; take the"
            " builtin engine or vllm"
        )
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
    """`tokenizer` is None where the folder has none. `setting` is limits.contextTokens, 0 for none.

    LoadFailed where the engine doesn't make the model's vectors.
    """
    pairs = scores_pairs(config)
    task: Task = "score" if pairs else "embed"
    if not dialect.forms_of(task):
        what = "reranking" if pairs else "embeddings"
        raise LoadFailed(f"{dialect.title} isn't asked for {what} here; name another engine in spec.engine.name")
    recipe = read_recipe(folder)
    if pairs:
        check_one_score(labels_of(config))
        if (reason := dialect.why_no_scores(config)) is not None:
            raise LoadFailed(f"{dialect.title} can't serve this model: {reason}")
    elif not dialect.pools_freely and (reason := why_not(recipe, dialect, config)) is not None:
        raise LoadFailed(f"{dialect.title} can't serve this model: {reason}")
    own = language_config(config)
    told = supervisor.state.facts.context_tokens
    context = longest_text(own, recipe.longest, setting)
    shares_room = dialect.shares_room(config)
    if told:  # of a context that is shared, one token is an answer's, which there never is
        context = min(context, told - 1 if shares_room else told)
    info, terms = described(context)
    prompts = _prompts(tokenizer, info, recipe, pairs=pairs)
    expected, ids = _first_lengths(prompts, pairs=pairs)
    terms = replace(terms, task=task, shared_tokens=info.context_tokens if shares_room else 0)
    try:
        if pairs:
            form = run_on(loop, tried_score_form(config, expected, terms, dialect, supervisor.address))
            size = 1
        else:
            form, values = run_on(loop, tried_vector_form(ids, terms, dialect, supervisor.address))
            size = len(values)
            is_longer = Layer("normalize") in recipe.layers and abs(math.hypot(*values) - 1) > _UNIT
            if is_longer and not dialect.pools_freely:
                raise LoadFailed(f"{dialect.title} doesn't normalize this model's vectors, as its modules.json says")
            form = replace(form, normalizes=is_longer)
    except EngineUnreachable as error:
        raise LoadFailed(f"{dialect.title} makes no embeddings of this model: {error}") from None
    info = replace(info, family="embedding", embedding_size=None if pairs else size)
    capabilities = Capabilities(
        ("text",),
        frozenset({"rerank"} if pairs else {"embeddings"}),
        prompts=recipe.prompts,
        default_prompt=recipe.default_prompt,
    )
    loop.call_soon_threadsafe(core.begin, supervisor.address, replace(terms, vector_size=size, form=form))
    return OtherEmbeddingEngine(info, capabilities, prompts, dialect, core, supervisor, loop, form)


def _prompts(tokenizer: Any, info: ModelInfo, recipe: EmbeddingRecipe, *, pairs: bool) -> EmbeddingPrompts:
    if tokenizer is None:
        return UnreadPrompts(info.context_tokens, info.vocabulary, pairs=pairs, lower_case=recipe.lower_case)
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    vocabulary = info.vocabulary or fast.get_vocab_size()
    return EmbeddingPrompts(fast, info.context_tokens, vocabulary, pairs=pairs, lower_case=recipe.lower_case)


def _first_lengths(prompts: EmbeddingPrompts, *, pairs: bool) -> tuple[int | None, Sequence[int] | None]:
    """How many tokens the first pair has, and the ids of the first text; None where nobody knows."""
    if not prompts.reads:
        return None, None
    if pairs:
        return len(prompts.pair(FIRST_PAIRS[0].query, FIRST_PAIRS[0].text)[0]), None
    return None, prompts.text(FIRST_TEXT).ids


def labels_of(config: Mapping[str, Any]) -> int:
    """Classes that a model with a head tells apart; two where config.json is silent, as transformers has it."""
    number, names = config.get("num_labels"), config.get("id2label")
    if isinstance(names, Mapping):
        return len(names)
    return number if isinstance(number, int) else 2
