"""The resource's types as data, for the two that walk them: strict parsing and the CRD's schema."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect


@dataclass(frozen=True, slots=True)
class FieldType:
    """A type without its wrappers: `| None` and annotations are taken off, schema extras kept."""

    kind: inspect.Type
    extra: dict[str, Any]


@cache
def struct_type(cls: type[msgspec.Struct]) -> inspect.StructType:
    kind = inspect.type_info(cls)
    assert isinstance(kind, inspect.StructType)
    return kind


def unwrap(kind: inspect.Type) -> FieldType:
    """What a field holds when it is set. Every field of ours is one type, or one type and absent."""
    extra: dict[str, Any] = {}
    while True:
        if isinstance(kind, inspect.Metadata):
            extra = {**(kind.extra_json_schema or {}), **extra}
            kind = kind.type
        elif isinstance(kind, inspect.UnionType) and len(rest := _without_none(kind)) == 1:
            kind = rest[0]
        else:
            return FieldType(kind, extra)


def is_int_or_string(kind: inspect.Type) -> bool:
    """`8`, `"8Gi"`, `"auto"`: what Kubernetes calls IntOrString."""
    return isinstance(kind, inspect.UnionType) and len(_without_none(kind)) == 2


def string_of(kind: inspect.UnionType) -> inspect.StrType | inspect.LiteralType:
    """The string half of an IntOrString."""
    return next(part for part in kind.types if isinstance(part, inspect.StrType | inspect.LiteralType))


def _without_none(kind: inspect.UnionType) -> list[inspect.Type]:
    return [part for part in kind.types if not isinstance(part, inspect.NoneType)]
