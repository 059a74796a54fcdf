"""Vectors and scores as OpenAI's protocol and its kin have them. Pure."""

import base64
import binascii
import math
from collections.abc import Sequence

import msgspec
import numpy as np
from ams_common.printable import printable

from ams_pod.engines.openai.pieces import Scale, VectorForm

_NEAREST = 1e-7  # that a probability comes to 0 or 1, in 32 bits


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class _Entry(msgspec.Struct):
    """Of a vector a list, or float32 in base64; of a score a number, under one of two names."""

    embedding: str | list[float] | None = None
    score: float | None = None
    relevance_score: float | None = None


class _Counted(msgspec.Struct):
    """Numbers that some engines give as something else."""

    prompt_tokens: msgspec.Raw = msgspec.Raw(b"null")
    total_tokens: msgspec.Raw = msgspec.Raw(b"null")


class _Answer(msgspec.Struct):
    """`data` of vectors, and of scores too where it isn't `results`."""

    data: list[_Entry] | None = None
    results: list[_Entry] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")


_ANSWERS = msgspec.json.Decoder(_Answer)
_LISTS = msgspec.json.Decoder(list[_Entry])
_COUNTED = msgspec.json.Decoder(_Counted)
_WHOLE = msgspec.json.Decoder(int)


def read_vector(data: bytes, size: int) -> tuple[Sequence[float], int | None]:
    """Of one text or pair: `size` finite values, of any number where it is 0, and how many tokens were counted.

    ValueError for anything else, with a clause that says what it is.
    """
    try:
        if data.lstrip()[:1] == b"[":
            entries, tokens = _LISTS.decode(data), None
        else:
            answer = _ANSWERS.decode(data)
            entries, tokens = (answer.data if answer.results is None else answer.results) or [], _tokens(answer.usage)
    except msgspec.ValidationError as error:
        raise ValueError(f"its answer is of another form ({printable(str(error), 200)})") from None
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise ValueError("its answer is no JSON") from None
    if len(entries) != 1:
        raise ValueError(f"{len(entries)} were sent for one text")
    values = _values(entries[0])
    if not values or not np.isfinite(values).all():
        raise ValueError("it has values that aren't numbers, or none")
    if size and len(values) != size:
        raise ValueError(f"it has {len(values)} values, and others have {size}")
    return values, tokens


def made_of(values: Sequence[float], form: VectorForm) -> Sequence[float]:
    """What clients get of an engine's values."""
    if form.scale != "as-is":
        return [scaled(value, form.scale) for value in values]
    if form.normalizes and (length := math.hypot(*values)) > 0:
        return [value / length for value in values]
    return values


def scaled(score: float, scale: Scale) -> float:
    """A score on another scale."""
    if scale == "sigmoid":
        return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(max(score, -700.0)) / (1 + math.exp(score))
    if scale == "logit":
        inside = min(max(score, _NEAREST), 1 - _NEAREST)
        return math.log(inside / (1 - inside))
    return score


def _values(entry: _Entry) -> Sequence[float]:
    """ValueError for base64 that is none."""
    scores = [score for score in (entry.relevance_score, entry.score) if score is not None]
    if scores:
        return scores[:1]
    if not isinstance(entry.embedding, str):
        return entry.embedding or []
    try:
        values: list[float] = np.frombuffer(base64.b64decode(entry.embedding, validate=True), "<f4").tolist()
    except (binascii.Error, ValueError):
        raise ValueError("it is no base64 of 32-bit numbers") from None
    return values


def _tokens(usage: msgspec.Raw) -> int | None:
    """What it counted; None for what is no number of tokens."""
    try:
        counted = _COUNTED.decode(usage)
        for told in (counted.prompt_tokens, counted.total_tokens):
            if bytes(told) != b"null":
                return _WHOLE.decode(told)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    return None
