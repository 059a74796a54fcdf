"""What dialects share when they write calls, and when they tell a grammar of them."""

import json
from collections.abc import Mapping
from typing import Any

NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def parameters_of(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of a function's arguments; one that names none takes an empty object."""
    schema = function.get("parameters")
    return schema if schema else NO_ARGUMENTS


def properties_of(function: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas of a function's arguments by name, each with what it may refer to."""
    schema = parameters_of(function)
    found = schema.get("properties")
    shared = {name: schema[name] for name in ("$defs", "definitions") if name in schema}
    if not isinstance(found, dict):
        return {}
    return {name: {**shared, **each} for name, each in found.items() if isinstance(each, dict)}


def required_of(function: Mapping[str, Any]) -> set[str]:
    """The arguments that a call must have."""
    required = parameters_of(function).get("required")
    return {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()


def types_of(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema names itself, or in what it offers; empty where it names none."""
    found: set[str] = set()
    own = schema.get("type")
    found.update(each for each in (own if isinstance(own, list) else [own]) if isinstance(each, str))
    for name in ("anyOf", "oneOf"):
        for each in schema.get(name) or ():
            if isinstance(each, dict):
                found |= types_of(each)
    return found
