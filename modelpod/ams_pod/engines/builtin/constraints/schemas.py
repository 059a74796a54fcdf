"""JSON Schemas as llguidance takes them: bounded, with what it can't follow refused by name, and annotations left out.

Pure. What it leaves to llguidance is what that refuses by itself: references that lead nowhere, types that don't exist,
schemas that nothing satisfies.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from ams_pod.engines.port import EngineRefusal

MOST_BYTES = 128 << 10
_MOST_DEPTH = 64
_MOST_SCHEMAS = 10_000
_MOST_PROPERTIES = 500  # of one object
_MOST_VALUES = 10_000  # in all enums and constants
_MOST_NAME_PATTERNS = 64  # of all objects: each is compared with the others
_RULES_OF_A_LIST = 8
_LONGEST_PATTERN = 4_000
_MOST_MULTIPLE = 10_000  # in units of its last digit: an automaton has a state for each remainder

WHITE_SPACE = r"[ \t\n\r]{1,40}"
"""Between the parts of a JSON text; a model that has nothing to say can't go on with it for ever."""

_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)  # others are annotations, as the standard allows
_NOT_FOLLOWED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$recursiveRef",
    ]
)
_DROPPED = frozenset(("x-guidance", "uniqueItems", "propertyNames"))  # after they were looked at
_SINGLE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def checked_schema(text: str) -> dict[str, Any]:
    """The schema of a JSON text, tidied. EngineRefusal("invalid-constraint") says what can't be followed."""
    if len(text) > MOST_BYTES:
        raise refusal(f"The JSON Schema is too large: {len(text):,} characters; at most {MOST_BYTES:,}.")
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(f"The JSON Schema is not valid JSON: {_short(error)}.") from None
    return _Tidying(schema).root()


def with_white_space(schema: dict[str, Any], pattern: str = WHITE_SPACE) -> dict[str, Any]:
    """The schema with what may stand between the parts of the JSON text; nothing for an empty pattern."""
    options: dict[str, Any] = {"lenient": False, "coerce_one_of": False, "whitespace_flexible": bool(pattern)}
    if pattern:
        options["whitespace_pattern"] = pattern
    return {**schema, "x-guidance": options}


def refusal(sentence: str) -> EngineRefusal:
    return EngineRefusal("invalid-constraint", sentence)


class _Tidying:
    """One walk through a schema, and what was met so far."""

    def __init__(self, schema: Any) -> None:
        self._root = schema
        self._schemas = self._values = self._patterns = 0

    def root(self) -> dict[str, Any]:
        tidy = self._schema(self._root, "$", 0)
        if isinstance(tidy, bool):
            if not tidy:
                raise refusal("The JSON Schema is false: nothing satisfies it.")
            return {}
        return tidy

    def _schema(self, schema: Any, where: str, depth: int) -> dict[str, Any] | bool:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise refusal(f"The JSON Schema has at {where} neither an object nor true or false.")
        self._schemas += 1
        if depth > _MOST_DEPTH or self._schemas > _MOST_SCHEMAS:
            bound = (
                f"deeper than {_MOST_DEPTH} levels" if depth > _MOST_DEPTH else f"of more than {_MOST_SCHEMAS} parts"
            )
            raise refusal(f"The JSON Schema is {bound}.")
        self._check(schema, where)
        tidy = {key: value for key, value in schema.items() if key not in _DROPPED}
        if tidy.get("format") not in _FORMATS:
            tidy.pop("format", None)
        for key, below, value in self._below(tidy, where):
            match value:
                case list():
                    tidy[key] = [self._schema(each, f"{below}[{n}]", depth + 1) for n, each in enumerate(value)]
                case dict() if key in _MAPS:
                    tidy[key] = {name: self._schema(each, f"{below}.{name}", depth + 1) for name, each in value.items()}
                case _:
                    tidy[key] = self._schema(value, below, depth + 1)
        if "propertyNames" in schema:
            tidy = _with_names(tidy, schema["propertyNames"], where)
        if "oneOf" in tidy and "anyOf" not in tidy and self._exclusive(tidy["oneOf"]):
            tidy["anyOf"] = tidy.pop("oneOf")
        return tidy

    def _below(self, schema: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, Any]]:
        """(keyword, where, value) of each keyword whose value has schemas in it."""
        for key in (*_SINGLE, *_LISTS, *_MAPS):
            if key not in schema:
                continue
            value = schema[key]
            if key in _LISTS and not isinstance(value, list):
                raise refusal(f"The JSON Schema has at {where}.{key} no list.")
            if key in _MAPS and not isinstance(value, dict):
                raise refusal(f"The JSON Schema has at {where}.{key} no object.")
            yield key, f"{where}.{key}", value

    def _check(self, schema: Mapping[str, Any], where: str) -> None:
        for key in schema:
            if key in _NOT_FOLLOWED:
                raise refusal(f"The JSON Schema has {key} at {where}, which can't be enforced.")
        if schema.get("uniqueItems") not in (None, False):
            raise refusal(f"The JSON Schema has uniqueItems at {where}, which can't be enforced.")
        properties = schema.get("properties")
        if isinstance(properties, dict) and len(properties) > _MOST_PROPERTIES:
            raise refusal(f"The JSON Schema has {len(properties)} properties at {where}; at most {_MOST_PROPERTIES}.")
        self._values += _count(schema.get("enum")) + _count(schema.get("const"))
        if self._values > _MOST_VALUES:
            raise refusal(
                f"The JSON Schema has more than {_MOST_VALUES:,} values in enums, lists and objects counted for more."
            )
        if isinstance(names := schema.get("patternProperties"), dict):
            self._patterns += len(names)
            if self._patterns > _MOST_NAME_PATTERNS:
                raise refusal(f"The JSON Schema has more than {_MOST_NAME_PATTERNS} patterns in patternProperties.")
        pattern = schema.get("pattern")
        if isinstance(pattern, str) and len(pattern) > _LONGEST_PATTERN:
            raise refusal(f"The pattern at {where} is longer than {_LONGEST_PATTERN} characters.")
        if "multipleOf" in schema and _units(schema["multipleOf"]) > _MOST_MULTIPLE:
            raise refusal(f"The multipleOf at {where} has too many digits: at most {_MOST_MULTIPLE} can be enforced.")

    def _exclusive(self, branches: Sequence[Any]) -> bool:
        """Whether no value satisfies two of the branches, as a property that all require tells them apart."""
        found = [self._resolved(branch) for branch in branches]
        objects = [branch for branch in found if branch is not None and branch.get("type") == "object"]
        if len(objects) < len(branches):
            return False
        shared = set.intersection(*(set(map(str, branch.get("required") or ())) for branch in objects))
        return any(_differ([(branch.get("properties") or {}).get(name) for branch in objects]) for name in shared)

    def _resolved(self, schema: Any) -> Mapping[str, Any] | None:
        """A schema, or the one that a reference within the document leads to."""
        if not isinstance(schema, dict):
            return None
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        found: Any = self._root
        for part in reference.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else None


def _differ(schemas: Sequence[Any]) -> bool:
    """Whether each has values of its own."""
    values: set[str] = set()
    for schema in schemas:
        if not isinstance(schema, dict):
            return False
        own = [schema["const"]] if "const" in schema else schema.get("enum")
        if not isinstance(own, list) or not own:
            return False
        texts = {json.dumps(value, sort_keys=True) for value in own}
        if texts & values:
            return False
        values |= texts
    return True


def _with_names(schema: dict[str, Any], names: Any, where: str) -> dict[str, Any]:
    """What propertyNames says in other words, where it says a pattern or the names."""
    others = schema.get("additionalProperties", True)
    known = isinstance(names, dict) and not {"properties", "patternProperties"} & schema.keys()
    if names is True or names == {} or (isinstance(names, dict) and names.keys() <= {"type", "title", "description"}):
        return schema
    if known and isinstance(names.get("enum"), list) and all(isinstance(name, str) for name in names["enum"]):
        return {**schema, "properties": dict.fromkeys(names["enum"], others), "additionalProperties": False}
    if known and isinstance(names.get("pattern"), str) and not {"minLength", "maxLength", "format"} & names.keys():
        return {**schema, "patternProperties": {names["pattern"]: others}, "additionalProperties": False}
    raise refusal(f"The JSON Schema has propertyNames at {where} of a kind that can't be enforced.")


def _count(value: Any) -> int:
    """What a value of an enum costs: rules of their own for an object or a list."""
    match value:
        case dict():
            return _RULES_OF_A_LIST + sum(map(_count, value.values()))
        case list():
            return _RULES_OF_A_LIST + sum(map(_count, value))
        case _:
            return 1


def _units(multiple: Any) -> int:
    """A multipleOf in units of its last digit."""
    if isinstance(multiple, bool) or not isinstance(multiple, int | float):
        return 0  # llguidance refuses it
    try:
        exact = Fraction(str(multiple))
    except ValueError:
        return _MOST_MULTIPLE + 1
    power = next((10**n for n in itertools.islice(itertools.count(), 20) if (exact * 10**n).denominator == 1), None)
    return _MOST_MULTIPLE + 1 if power is None else abs(int(exact * power))


def _short(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__
