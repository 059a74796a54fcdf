"""Hold a decoded document against a type and name every place where it differs, in words a person understands."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

from ams_common.resource.core import ObjectMeta
from ams_common.resource.shape import is_int_or_string, string_of, struct_type, unwrap

# Fields that any object may carry (an exported one does) and that nothing here reads.
_IGNORED: dict[type, frozenset[str]] = {
    ObjectMeta: frozenset({"deletionGracePeriodSeconds", "finalizers", "managedFields", "ownerReferences", "selfLink"})
}


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One thing wrong in a document: `spec.autoscaling.minReplicas` and `expected int, got str`."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}" if self.path else self.sentence


def check_document(document: Any, cls: type[msgspec.Struct]) -> tuple[Any, list[FieldProblem]]:
    """(document as `cls` reads it, problems in the document's order).

    As the API server does, a field of value null is taken as absent, and numbers that are keys as strings.
    """
    problems: list[FieldProblem] = []
    kind = struct_type(cls)
    return _Walk(kind, problems).value(document, kind, ""), problems


class _Walk:
    def __init__(self, root: inspect.StructType, problems: list[FieldProblem]) -> None:
        self._root = root
        self._problems = problems

    def _refuse(self, path: str, sentence: str) -> None:
        self._problems.append(FieldProblem(path, sentence))

    def value(self, value: Any, annotation: inspect.Type, path: str) -> Any:
        kind = unwrap(annotation).kind
        match kind:
            case inspect.StructType():
                return self._struct(value, kind, path)
            case inspect.DictType():
                return self._mapping(value, kind, path)
            case inspect.ListType():
                return self._list(value, kind, path)
            case inspect.LiteralType():
                return self._choice(value, kind.values, path)
            case inspect.UnionType() if is_int_or_string(kind):
                return self._int_or_string(value, kind, path)
            case inspect.StrType() if self._expect(value, str, "str", path):
                self._bounds(len(value), kind.min_length, kind.max_length, "characters", path)
            case inspect.IntType() if self._expect(value, int, "int", path):
                self._range(value, kind, path)
            case inspect.FloatType():
                self._expect(value, (int, float), "number", path)
            case inspect.BoolType():
                self._expect(value, bool, "bool", path)
        return value

    def _struct(self, value: Any, kind: inspect.StructType, path: str) -> Any:
        if not self._expect(value, dict, "mapping", path):
            return value
        fields = {field.encode_name: field for field in kind.fields}
        result: dict[str, Any] = {}
        for key, item in value.items():
            at = join(path, name := _key(key))
            if field := fields.get(name):
                if item is not None:
                    result[name] = self.value(item, field.type, at)
            elif name not in _IGNORED.get(kind.cls, ()):
                self._refuse(at, "unknown field" + self._meant(name, list(fields)))
        for name, field in fields.items():
            if field.required and name not in result:
                self._refuse(join(path, name), "is required")
        return result

    def _meant(self, name: str, siblings: list[str]) -> str:
        lowered = {sibling.lower(): sibling for sibling in siblings}
        elsewhere = [place for place in _places(self._root) if place.rpartition(".")[2] == name]
        if elsewhere and name.lower() not in lowered:
            return f"; did you mean {elsewhere[0]}?"
        if close := get_close_matches(name.lower(), lowered, n=1, cutoff=0.7):
            return f"; did you mean {lowered[close[0]]}?"
        return f"; known here: {', '.join(siblings)}" if len(siblings) <= 8 else ""

    def _mapping(self, value: Any, kind: inspect.DictType, path: str) -> Any:
        if not self._expect(value, dict, "mapping", path):
            return value
        self._bounds(len(value), kind.min_length, kind.max_length, "entries", path)
        result = {}
        for key, item in value.items():
            name = _key(key)
            at = join(path, name)
            key_kind = unwrap(kind.key_type).kind
            if isinstance(key_kind, inspect.StrType):
                self._bounds(len(name), key_kind.min_length, key_kind.max_length, "characters in the key", at)
            result[name] = self.value(item, kind.value_type, at)
        return result

    def _list(self, value: Any, kind: inspect.ListType, path: str) -> Any:
        if not self._expect(value, list, "list", path):
            return value
        self._bounds(len(value), kind.min_length, kind.max_length, "entries", path)
        return [self.value(item, kind.item_type, f"{path}[{index}]") for index, item in enumerate(value)]

    def _int_or_string(self, value: Any, kind: inspect.UnionType, path: str) -> Any:
        text = string_of(kind)
        if isinstance(value, str) and isinstance(text, inspect.LiteralType):
            return self._choice(value, ("an int", *text.values), path)
        if not self._expect(value, (int, str), "int or str", path):
            return value
        if isinstance(value, str) and isinstance(text, inspect.StrType):
            self._bounds(len(value), text.min_length, text.max_length, "characters", path)
        return value

    def _choice(self, value: Any, values: Sequence[Any], path: str) -> Any:
        if value in values:
            return value
        if not isinstance(value, str):
            self._refuse(path, f"expected {_any_of(values)}, got {_type_name(value)}")
            return value
        close = get_close_matches(value.lower(), [str(each) for each in values], n=1)
        self._refuse(
            path, f"expected {_any_of(values)}, got {value!r}" + (f"; did you mean {close[0]}?" if close else "")
        )
        return value

    def _expect(self, value: Any, wanted: type | tuple[type, ...], word: str, path: str) -> bool:
        fits = isinstance(value, wanted) and (wanted is bool or not isinstance(value, bool))
        if not fits:
            hint = "; write it in quotes" if wanted in (str, (int, str)) and _scalar(value) else ""
            self._refuse(path, f"expected {word}, got {_type_name(value)}{hint}")
        return fits

    def _bounds(self, size: int, low: int | None, high: int | None, unit: str, path: str) -> None:
        if low is not None and size < low:
            self._refuse(path, "must not be empty" if low == 1 else f"expected at least {low} {unit}, got {size}")
        if high is not None and size > high:
            self._refuse(path, f"expected at most {high} {unit}, got {size}")

    def _range(self, value: int, kind: inspect.IntType, path: str) -> None:
        if kind.ge is not None and value < kind.ge:
            self._refuse(path, f"expected int >= {kind.ge}, got {value}")
        if kind.le is not None and value > kind.le:
            self._refuse(path, f"expected int <= {kind.le}, got {value}")


def join(path: str, name: str) -> str:
    """Path of a field or key; keys that hold dots or such are quoted."""
    if not name or any(mark in name for mark in ". []/"):
        return f'{path}["{name}"]'
    return f"{path}.{name}" if path else name


def _key(key: Any) -> str:
    if isinstance(key, bool):
        return "true" if key else "false"
    return str(key)


def _any_of(values: Sequence[Any]) -> str:
    words = [str(value) for value in values]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def _scalar(value: Any) -> bool:
    return isinstance(value, bool | int | float)


def _type_name(value: Any) -> str:
    return {dict: "mapping", list: "list", type(None): "null"}.get(type(value), type(value).__name__)


def _places(kind: inspect.Type, path: str = "") -> Iterator[str]:
    """Paths of all fields under a struct, nearest to the root first."""
    kind = unwrap(kind).kind
    if isinstance(kind, inspect.StructType):
        for field in kind.fields:
            yield join(path, field.encode_name)
        for field in kind.fields:
            if field.encode_name not in ("status", "metadata"):
                yield from _places(field.type, join(path, field.encode_name))
