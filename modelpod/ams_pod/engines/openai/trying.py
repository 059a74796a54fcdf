"""What a server that nobody knows takes for a prompt: asked for one token when it has started."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ams_pod.engines.openai.core import Terms
from ams_pod.engines.openai.dialects.base import Dialect
from ams_pod.engines.openai.http import Address, Answer, fetch
from ams_pod.engines.openai.pieces import Asked
from ams_pod.engines.port import EngineError, LoadFailed, Sampling

log = logging.getLogger(__name__)
_SECONDS = 300.0  # for one token, of a server that loads its model with its first request
_PATIENCE_SECONDS = 600.0  # for one that says that it is busy
_AGAIN_SECONDS = 1.0
_BUSY = (429, 503)
_NO_ROUTE = (404, 405, 501)


@dataclass(frozen=True, slots=True)
class PromptForm:
    """`drops` tokens in front of a text are left out, as the engine puts them there itself."""

    kind: Literal["ids", "text"] = "ids"
    drops: int = 0


@dataclass(frozen=True, slots=True)
class Tried:
    """What became of one prompt. `tokens` is how many the engine says that it has; None: it says nothing, or failed."""

    works: bool
    tokens: int | None = None
    why: str = ""
    lacks_route: bool = False


def form_of(expected: int, ids: Tried, text: Tried | None, *, begins_special: bool) -> PromptForm | None:
    """From what became of the same prompt as ids and, None: not tried, as text. None where another try is needed, or
    nothing works."""
    if ids.works and ids.tokens in (None, expected):
        return PromptForm()
    if text is None:
        return None
    if text.works and (not ids.works or text.tokens in (expected, expected + 1)):
        return PromptForm("text", int(begins_special and text.tokens == expected + 1))
    return PromptForm() if ids.works else None


async def tried_form(
    prompt: Sequence[int],
    text_of: Callable[[Sequence[int]], str],
    special: frozenset[int],
    terms: Terms,
    dialect: Dialect,
    address: Address,
) -> PromptForm:
    """`prompt` is a short one. LoadFailed for a server that goes on from neither ids nor text."""
    began = time.monotonic()
    ids = await _try(Asked(prompt, Sampling(1), terms.model, terms.context_tokens), dialect, address, began)
    first = bool(prompt) and prompt[0] in special
    if (form := form_of(len(prompt), ids, None, begins_special=first)) is not None:
        return form
    if ids.lacks_route:
        raise LoadFailed(
            f"{dialect.title} has no route /v1/completions for this model, by which it is asked ({ids.why})"
        )
    asked = Asked(prompt, Sampling(1), terms.model, terms.context_tokens, text=text_of(prompt))
    text = await _try(asked, dialect, address, began)
    form = form_of(len(prompt), ids, text, begins_special=first)
    if form is None:
        raise LoadFailed(f"{dialect.title} answers neither prompts of token ids ({ids.why}) nor of text ({text.why})")
    told = text.tokens if form.kind == "text" else ids.tokens
    if told is not None and told - form.drops != len(prompt):
        log.warning(
            "%s makes %d tokens of a prompt of %d: it has another tokenizer, or puts it into a template of its own",
            dialect.title, told, len(prompt),
        )  # fmt: skip
    log.info("%s is given prompts as %s", dialect.title, "token ids" if form.kind == "ids" else "text")
    return form


async def _try(asked: Asked, dialect: Dialect, address: Address, began: float) -> Tried:
    while True:
        path, body = dialect.whole_request(asked)
        answer = await fetch(address, path, method="POST", body=body, seconds=_SECONDS)
        if answer.status not in _BUSY or time.monotonic() - began > _PATIENCE_SECONDS:
            return _judged(answer, asked, dialect)
        await asyncio.sleep(_AGAIN_SECONDS)


def _judged(answer: Answer, asked: Asked, dialect: Dialect) -> Tried:
    try:
        if answer.status != 200:
            raise dialect.failure(answer.status, answer.body, asked)
        piece = dialect.pieces(answer.body)
        if piece is None or piece.error is not None:
            raise piece.error if piece is not None and piece.error is not None else EngineError("it says nothing")
        if piece.text is None and piece.finish is None:
            raise dialect.unusable("sent an answer without a text")
    except EngineError as error:
        return Tried(works=False, why=str(error), lacks_route=answer.status in _NO_ROUTE)
    return Tried(works=True, tokens=piece.prompt_tokens)
