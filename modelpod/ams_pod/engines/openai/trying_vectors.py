"""How a server is asked for vectors or scores: tried when it has started, with a text or some pairs of texts."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ams_pod.engines.openai.core import Terms
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.http import Address, fetch
from ams_pod.engines.openai.pieces import Asked, Pair, Scale, VectorForm
from ams_pod.engines.port import EngineError, EngineRefusal, LoadFailed, Sampling
from ams_pod.engines.prompts.embedding import scores_are_logits

log = logging.getLogger(__name__)
_SECONDS = 300.0  # for one text, of a server that loads its model with its first request
_PATIENCE_SECONDS = 600.0  # for one that says that it is busy
_AGAIN_SECONDS = 1.0
_BUSY = (429, 503)
_NO_ROUTE = (404, 405, 501)
_ALIKE = 0.99  # cosine of a text's vectors, of which one was made of its ids
FIRST_TEXT = "hello there"
# Some of which a model finds alike, and some not: logits of all of them are hardly between 0 and 1.
FIRST_PAIRS = (
    Pair("hello there", "hello there"),
    Pair("What is the capital of France?", "Paris is the capital of France."),
    Pair("What is the capital of France?", "The cat sleeps on the mat."),
    Pair("hello", "7 11 13 17"),
)


@dataclass(frozen=True, slots=True)
class TriedVector:
    """What became of one text or pair; no `values` where it failed. `tokens` is how many the engine says it has."""

    values: Sequence[float] = ()
    tokens: int | None = None
    why: str = ""
    lacks_route: bool = False


def chosen_prompt(expected: int, ids: TriedVector, text: TriedVector) -> VectorForm:
    """Whether texts go as ids or as they are, from what became of one that has `expected` tokens; ids worked."""
    if text.values and len(text.values) == len(ids.values) and _cosine(ids.values, text.values) < _ALIKE:
        return VectorForm(prompt="text", counts=text.tokens in (None, expected))
    return VectorForm(counts=ids.tokens in (None, expected))


def scale_of(scores: Sequence[float], *, wants_logits: bool) -> Scale:
    """What is made of a server's scores, from some that it gave: those outside of 0 to 1 are no probabilities."""
    logits = any(not 0 <= score <= 1 for score in scores)
    if wants_logits:
        return "as-is" if logits else "logit"
    return "sigmoid" if logits else "as-is"


async def tried_vector_form(
    ids: Sequence[int] | None, terms: Terms, dialect: Dialect, address: Address
) -> tuple[VectorForm, Sequence[float]]:
    """The form, and the vector of `FIRST_TEXT`. `ids` are its own; None where they aren't known.

    LoadFailed for a server that makes no vectors. EngineUnreachable.
    """
    began = time.monotonic()

    async def attempt(form: VectorForm) -> TriedVector:
        text = FIRST_TEXT if form.prompt == "text" else None
        asked = Asked(ids or (), Sampling(1), terms.model, terms.context_tokens, task="embed", form=form, text=text)
        return await _tried(asked, dialect, address, began)

    forms = [form for form in dialect.forms_of("embed") if form.prompt == "text" or ids is not None]
    form, found = await _first_that_works(forms, attempt, "embeddings", dialect)
    expected = None if ids is None else len(ids)
    chosen = replace(form, counts=expected is None or found.tokens in (None, expected))
    if form.prompt == "ids" and expected is not None and dialect.tries_prompts:
        text = await attempt(replace(form, prompt="text"))
        better = chosen_prompt(expected, found, text)
        chosen = replace(form, prompt=better.prompt, counts=better.counts)
    if not chosen.counts:
        log.warning(
            "%s counts %s tokens in a text of %s: it has another tokenizer, or counts something else. Usage is counted"
            " here", dialect.title, found.tokens, expected,
        )  # fmt: skip
    if dialect.tries_prompts:
        log.info("%s is asked at %s, with texts as %s", dialect.title, chosen.route, chosen.prompt)
    return chosen, found.values


async def tried_score_form(
    config: Mapping[str, Any], expected: int | None, terms: Terms, dialect: Dialect, address: Address
) -> VectorForm:
    """`config` is the model's; `expected` how many tokens the first of `FIRST_PAIRS` has, None where nobody knows.

    LoadFailed for a server that scores no pairs. EngineUnreachable.
    """
    began = time.monotonic()

    async def attempt(form: VectorForm, pair: Pair = FIRST_PAIRS[0]) -> TriedVector:
        asked = Asked((), Sampling(1), terms.model, terms.context_tokens, task="score", form=form, pair=pair)
        return await _tried(asked, dialect, address, began)

    form, first = await _first_that_works(dialect.forms_of("score"), attempt, "scores of pairs", dialect)
    if len(first.values) != 1:
        raise LoadFailed(f"{dialect.title} gives {len(first.values)} scores for a pair; one that reranks has one")
    form = replace(form, counts=expected is None or first.tokens in (None, expected))
    if (scale := dialect.scale_of(config)) is not None:
        return replace(form, scale=scale)
    others = [await attempt(form, pair) for pair in FIRST_PAIRS[1:]]
    scores = [value for each in (first, *others) for value in each.values]
    form = replace(form, scale=scale_of(scores, wants_logits=scores_are_logits(config)))
    given = {"as-is": "as it gives them", "sigmoid": "as probabilities of its logits", "logit": "as logits"}
    log.info("%s is asked at %s; its scores are told %s", dialect.title, form.route, given[form.scale])
    return form


async def _first_that_works(
    forms: Sequence[VectorForm], attempt: Any, what: str, dialect: Dialect
) -> tuple[VectorForm, TriedVector]:
    """LoadFailed where none does."""
    lacking: dict[str, str] = {}
    faults: dict[str, str] = {}
    for form in forms:
        if form.route in lacking:
            continue
        found = await attempt(form)
        if found.values:
            return form, found
        if found.lacks_route:
            lacking[form.route] = found.why
        else:
            faults.setdefault(f"{form.prompt} at {form.route}", found.why)
    if not faults:
        raise LoadFailed(
            f"{dialect.title} makes no {what} of this model: it has no route {' or '.join(lacking)}"
            f" ({next(iter(lacking.values()), '')}). If it was started for texts, set spec.model.family: embedding"
        )
    told = "; ".join(f"{name}: {why}" for name, why in faults.items())
    raise LoadFailed(f"{dialect.title} makes no {what} of this model: {told}")


async def _tried(asked: Asked, dialect: Dialect, address: Address, began: float) -> TriedVector:
    path, body = dialect.request(asked)
    while True:
        answer = await fetch(address, path, method="POST", body=body, seconds=_SECONDS)
        if answer.status not in _BUSY or time.monotonic() - began > _PATIENCE_SECONDS:
            break
        await asyncio.sleep(_AGAIN_SECONDS)
    try:
        if answer.status != 200:
            raise dialect.failure(answer.status, answer.body, asked)
        piece = dialect.vector(answer.body, 0, asked.form)
    except EngineError as error:
        why = str(error)
        if isinstance(error, EngineRefusal) and address.key:
            why = why.replace(address.key, "...")
        return TriedVector(why=why, lacks_route=answer.status in _NO_ROUTE)
    return TriedVector(piece.embedding or (), piece.prompt_tokens)


def _cosine(one: Sequence[float], other: Sequence[float]) -> float:
    lengths = math.hypot(*one) * math.hypot(*other)
    return sum(a * b for a, b in zip(one, other, strict=True)) / lengths if lengths else 0.0
