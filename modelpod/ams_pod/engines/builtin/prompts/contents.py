"""What tells prompts with media apart: numbers that stand for what is in each medium."""

import hashlib
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def number_of(*values: Any) -> int:
    """A negative number that stands for these values: tensors, plain values, and what holds them.

    A value of another kind is like no other, so that nothing wrong is ever taken for the same.
    """
    digest = hashlib.blake2b(digest_size=8)
    for value in values:
        _feed(digest, value)
    return -1 - (int.from_bytes(digest.digest(), "big") >> 1)


def content_of(ids: Sequence[int], media: Iterable[tuple[int, int, int]]) -> list[int]:
    """The ids, with those from `start` to `end` of each medium replaced by its number."""
    content = list(ids)
    for start, end, number in media:
        content[start:end] = [number] * (end - start)
    return content


def _feed(digest: Any, value: Any) -> None:
    match value:
        case Tensor():
            digest.update(f"tensor {value.dtype} {tuple(value.shape)};".encode())
            flat = value.detach().cpu().contiguous().view(-1)
            if flat.numel():
                digest.update(flat.view(torch.uint8).numpy())
        case np.ndarray():
            digest.update(f"array {value.dtype} {value.shape};".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
        case None | bool() | int() | float() | str() | bytes():
            digest.update(f"{type(value).__name__} {value!r};".encode())
        case Mapping():
            digest.update(f"mapping {len(value)};".encode())
            for key, each in value.items():
                _feed(digest, key)
                _feed(digest, each)
        case list() | tuple():
            digest.update(f"sequence {len(value)};".encode())
            for each in value:
                _feed(digest, each)
        case _ if is_dataclass(value):
            digest.update(f"{type(value).__qualname__};".encode())
            for field in fields(value):
                _feed(digest, getattr(value, field.name))
        case _:
            digest.update(secrets.token_bytes(16))
