"""Schemas as clients send them, varied, each of answers that end within a few hundred tokens."""

from typing import Any


def closed(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """An object with these properties and no others."""
    names = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": names, "additionalProperties": False, **more}


def short(longest: int = 8, **more: Any) -> dict[str, Any]:
    return {"type": "string", "maxLength": longest, **more}


INTEGER = {"type": "integer", "minimum": -1000, "maximum": 1000}

SCHEMAS: dict[str, dict[str, Any]] = {
    "person": closed({"name": short(20), "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
    "nested": closed(
        {"list": {"type": "array", "items": closed({"id": INTEGER, "ok": {"type": "boolean"}}), "maxItems": 3}}
    ),
    "numbers": closed(
        {"whole": INTEGER, "part": {"type": "number", "exclusiveMinimum": 0, "maximum": 1, "multipleOf": 0.01}}
    ),
    "patterns": closed(
        {"zip": {"type": "string", "pattern": "^[0-9]{5}(-[0-9]{4})?$"}, "day": {"type": "string", "format": "date"}}
    ),
    "id": closed({"id": {"type": "string", "format": "uuid"}, "at": {"type": "string", "format": "ipv4"}}),
    "union": closed({"value": {"anyOf": [short(), {"type": "null"}, closed({"k": {"const": "x"}})]}}),
    "kinds": {
        "$defs": {
            "Cat": closed({"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}),
            "Dog": closed({"kind": {"const": "dog"}, "name": short()}),
        },
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "discriminator": {"propertyName": "kind"},
    },
    "optional": closed({name: {"type": "boolean"} for name in "abcdef"}, ["c"]),
    "enum": {"enum": ["red", 2, None, True, {"a": [1]}, 'ü " \\ \n']},
    "tuple": {"type": "array", "prefixItems": [INTEGER, {"type": "boolean"}, short()], "items": False, "minItems": 3},
    "lengths": {
        "type": "array",
        "items": {"type": "string", "minLength": 2, "maxLength": 4},
        "minItems": 2,
        "maxItems": 4,
    },
    "named": {
        "type": "object",
        "patternProperties": {"^x-[a-z]{1,4}$": INTEGER},
        "additionalProperties": False,
        "maxProperties": 2,
    },
    "names": {"type": "object", "propertyNames": {"enum": ["one", "two"]}, "additionalProperties": INTEGER},
    "both": {
        "allOf": [
            {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
            {"properties": {"b": short()}, "required": ["b"], "maxProperties": 2},
        ]
    },
    "tree": {
        "$defs": {
            "node": closed(
                {"leaf": {"type": "boolean"}, "left": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}
            )
        },
        "$ref": "#/$defs/node",
    },
    "nullable": closed({"maybe": {"type": ["integer", "null"], "minimum": 0, "maximum": 5}}),
    "annotated": closed(
        {"n": {"type": "integer", "format": "int32", "title": "N", "default": 3, "minimum": 1, "maximum": 9}},
        title="T",
        description="d",
    ),
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 0, "maximum": 700},
    "const": {"const": {"fixed": ["a", 1.5, None]}},
    "boolean": {"type": "boolean"},
}
