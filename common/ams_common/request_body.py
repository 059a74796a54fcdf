"""JSON bodies of requests: decoded, with the habits of clients that have one meaning, and each field accounted for."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from ams_common.errors import ApiError
from ams_common.parsing import decode_body
from ams_common.printable import printable
from ams_common.wire.request_fields import FieldRule, of_form, rules_of, structs_in

T = TypeVar("T", bound=msgspec.Struct)

_OBJECT: "msgspec.json.Decoder[dict[str, msgspec.Raw]]" = msgspec.json.Decoder(dict[str, msgspec.Raw])
_OBJECTS: "msgspec.json.Decoder[list[dict[str, msgspec.Raw]]]" = msgspec.json.Decoder(list[dict[str, msgspec.Raw]])
_VALUE: "msgspec.json.Decoder[Any]" = msgspec.json.Decoder()
_MOST_NAMED = 20
_LONGEST_NAME = 100
_WHOLE = re.compile(rb"(-?\d{1,18})\.0{1,18}")


def _unset_below_one(value: Any) -> Any:
    """LM Studio's and llama.cpp's -1, others' 0: as many tokens as there may be."""
    return None if value in (-1, 0) and not isinstance(value, bool) else value


def _no_limit(value: Any) -> Any:
    """vLLM's -1 for all tokens."""
    return 0 if value == -1 else value


def _without_empty(value: Any) -> Any:
    """A text that is nowhere stops nothing."""
    if value == "":
        return None
    return [each for each in value if each != ""] if isinstance(value, list) else value


HABITS: Mapping[str, Callable[[Any], Any]] = {
    "max_tokens": _unset_below_one,
    "max_completion_tokens": _unset_below_one,
    "max_new_tokens": _unset_below_one,
    "top_k": _no_limit,
    "stop": _without_empty,
}
"""What clients send by habit and the types don't take, by field; numbers like `1.0` are whole ones besides."""


class RequestReader(Generic[T]):
    """Reads bodies of one wire type."""

    def __init__(self, type_: type[T]) -> None:
        self._decoder = msgspec.json.Decoder(type_)
        self._fields = _tree(type_)

    def read(self, body: bytes | bytearray) -> tuple[T, list[str]]:
        """The request and the fields of it that were ignored. ApiError for a body or a field that can't be taken."""
        return self._decoded(body), self._ignored(body)

    def _decoded(self, body: bytes | bytearray) -> T:
        try:
            return decode_body(self._decoder, body)
        except ApiError as error:
            if error.code != "invalid_parameter" or (tidied := _tidied(body)) is None:
                raise
            return decode_body(self._decoder, tidied)

    def _ignored(self, body: bytes | bytearray) -> list[str]:
        ignored: dict[str, None] = {}
        top = decode_body(_OBJECT, body)
        try:
            _look(top, self._fields, "", "", ignored)
        except UnicodeDecodeError:
            raise ApiError("invalid_json", "The body is not valid JSON: it is not UTF-8.") from None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError("invalid_json", f"The body is not valid JSON: {error}.") from None
        return sorted(ignored)


def named(ignored: list[str]) -> str:
    """Ignored fields for a header: printable, and not too long for one."""
    names = [printable(name, _LONGEST_NAME) for name in ignored[:_MOST_NAMED]]
    more = len(ignored) - len(names)
    return ", ".join([*names, *([f"and {more} more"] if more else [])])


def ignored_of_form(texts: Mapping[str, str], type_: type[msgspec.Struct]) -> list[str]:
    """The fields of a form that are ignored. ApiError for one that would change the answer."""
    known, rules = {field.encode_name for field in msgspec.structs.fields(type_)}, of_form(type_)
    for name, text in texts.items():
        if (rule := rules.get(name)) is not None and not rule.takes(text.strip()):
            raise _refusal(rule, name)
    return sorted(name for name in texts if name not in known and name not in rules)


class _Fields:
    """What is known of the fields of an object: those below each, by name, and the rules of those that have one.

    `tagged` are the fields of objects that say what they are, by their `type`.
    """

    __slots__ = ("below", "rules", "tagged")

    def __init__(self) -> None:
        self.below: dict[str, _Fields] = {}
        self.rules: dict[str, FieldRule] = {}
        self.tagged: dict[str, _Fields] = {}


def _tree(type_: type[msgspec.Struct]) -> _Fields:
    root = _Fields()
    _add_struct(root, inspect.type_info(type_))
    for rule in rules_of(type_):
        *parents, name = rule.path.split(".")
        places = [root]
        for parent in parents:
            places = [each for place in places for each in _children(place, parent.removesuffix("[]"))]
        for place in places:
            place.below.setdefault(name, _Fields())
            place.rules[name] = rule
    return root


def _children(place: _Fields, name: str) -> list[_Fields]:
    child = place.below.get(name)
    if child is None:
        return []  # an object of another kind has it
    return list(child.tagged.values()) or [child]


def _add_struct(fields: _Fields, kind: inspect.Type) -> None:
    assert isinstance(kind, inspect.StructType)
    if kind.tag_field is not None:
        fields = fields.tagged.setdefault(str(kind.tag), _Fields())
        fields.below[kind.tag_field] = _Fields()
    for field in kind.fields:
        child = fields.below.setdefault(field.encode_name, _Fields())
        for struct, _ in structs_in(field.type):
            _add_struct(child, struct)


def _look(value: dict[str, msgspec.Raw], fields: _Fields, where: str, what: str, ignored: dict[str, None]) -> None:
    """Walk an object at `where`, which is `what` without the numbers of lists. ApiError for a refused field."""
    if fields.tagged:
        fields = fields.tagged.get(str(_VALUE.decode(value["type"])), fields) if "type" in value else fields
    below, rules = fields.below, fields.rules
    for name, raw in value.items():
        if (child := below.get(name)) is None:
            if bytes(memoryview(raw)[:5]) != b"null":
                ignored[f"{what}{name[: _LONGEST_NAME + 1]}"] = None
        elif name in rules:
            _check(rules[name], raw, where + name, what + name, ignored)
        elif child.below or child.tagged:
            _look_into(raw, child, where + name, what + name, ignored)


def _look_into(raw: msgspec.Raw, fields: _Fields, where: str, what: str, ignored: dict[str, None]) -> None:
    match bytes(memoryview(raw)[:1]):
        case b"{":
            _look(_OBJECT.decode(raw), fields, f"{where}.", f"{what}.", ignored)
        case b"[":
            what += "[]."
            try:
                values = _OBJECTS.decode(raw)
            except msgspec.ValidationError:
                return  # a list of something else, of which no more is known
            for index, value in enumerate(values):
                _look(value, fields, f"{where}[{index}].", what, ignored)


def _check(rule: FieldRule, raw: msgspec.Raw, where: str, what: str, ignored: dict[str, None]) -> None:
    if rule.treatment == "inert":
        return
    value = _VALUE.decode(raw)
    if not rule.takes(value):
        raise _refusal(rule, where)
    for name in rule.unknown_in(value):
        ignored[f"{what}.{name[: _LONGEST_NAME + 1]}"] = None


def _refusal(rule: FieldRule, where: str) -> ApiError:
    return ApiError("invalid_parameter", f"{where}: {rule.sentence}.", param=where)


def _tidied(body: bytes | bytearray) -> bytes | None:
    """The body with what clients send by habit as the types have it; None if it holds nothing of the kind."""
    try:
        fields = decode_body(_OBJECT, body)
    except ApiError:
        return None
    changed: dict[str, msgspec.Raw] = {}
    for name, raw in fields.items():
        text = bytes(raw) if memoryview(raw).nbytes <= 1 << 16 else b""
        tidy = _WHOLE.sub(rb"\1", text) if _WHOLE.fullmatch(text) else text
        if name in HABITS and tidy:
            value = _VALUE.decode(tidy)
            if (meant := HABITS[name](value)) is not value and meant != value:
                tidy = msgspec.json.encode(meant)
        if tidy != text:
            changed[name] = msgspec.Raw(tidy)
    return msgspec.json.encode(fields | changed) if changed else None
