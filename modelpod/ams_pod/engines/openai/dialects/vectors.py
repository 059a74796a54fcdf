"""Vectors and scores as OpenAI's protocol and its kin have them. Pure."""

import base64
import binascii
from collections.abc import Sequence

import msgspec
import numpy as np

from ams_pod.engines.openai.pieces import Piece
from ams_pod.engines.port import EngineError


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None


class _Entry(msgspec.Struct):
    """Of /v1/embeddings: a list, or float32 in base64; of /v1/score: a number."""

    embedding: str | list[float] | None = None
    score: float | None = None


class _Answer(msgspec.Struct):
    data: list[_Entry]
    usage: Usage | None = None


_ANSWERS = msgspec.json.Decoder(_Answer)


def read_vector(data: bytes, size: int, title: str) -> Piece:
    """Of one text or pair: `size` finite values, of any number where it is 0. EngineError for anything else."""
    try:
        answer = _ANSWERS.decode(data)
        [entry] = answer.data
        values = [entry.score] if entry.score is not None else _values(entry.embedding)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError, binascii.Error) as error:
        raise EngineError(f"{title} sent what is no vector: {ascii(str(error))[1:200]}") from None
    if not values or not np.isfinite(values).all():
        raise EngineError(f"{title} sent a vector that has values which aren't numbers, or none")
    if size and len(values) != size:
        raise EngineError(f"{title} sent a vector of {len(values)} values; its others have {size}")
    prompt_tokens = answer.usage.prompt_tokens if answer.usage is not None else None
    return Piece(embedding=values, finish="stop", prompt_tokens=prompt_tokens)


def _values(embedding: str | list[float] | None) -> Sequence[float]:
    if isinstance(embedding, str):
        values: list[float] = np.frombuffer(base64.b64decode(embedding, validate=True), "<f4").tolist()
        return values
    return embedding or []
