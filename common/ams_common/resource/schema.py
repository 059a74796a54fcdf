"""A struct type as the structural OpenAPI schema that a CustomResourceDefinition takes."""

import inspect as python
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import NODEFAULT, inspect

from ams_common.resource.rules import Rule
from ams_common.resource.shape import is_int_or_string, string_of, unwrap

Schema = dict[str, Any]


def schema_of(kind: inspect.Type, path: str, rules: Sequence[Rule]) -> Schema:
    """The schema of the values at `path`, with every default and the rules that hold there."""
    node = unwrap(kind)
    result = {**_body(node.kind, path, rules), **node.extra}
    if result.get("type") == "object" and not result.keys() & {"properties", "additionalProperties"}:
        raise TypeError(f"{path}: an object of unknown fields may be nested deeper than anybody can read")
    here = [rule for rule in rules if rule.path == path]
    for rule in here:
        result.update(rule.schema)
    validations = [{"rule": rule.cel, "message": rule.message} for rule in here if rule.cel is not None]
    if validations:
        result["x-kubernetes-validations"] = validations
    return result


def _body(kind: inspect.Type, path: str, rules: Sequence[Rule]) -> Schema:
    match kind:
        case inspect.StructType():
            return _struct(kind, path, rules)
        case inspect.DictType() if isinstance(kind.value_type, inspect.AnyType):
            return {"type": "object"}  # its fields come as extra_json_schema
        case inspect.DictType():
            values = schema_of(kind.value_type, _join(path, "*"), rules)
            return _set("object", additionalProperties=values, maxProperties=kind.max_length)
        case inspect.ListType():
            items = schema_of(kind.item_type, f"{path}[*]", rules)
            return _set("array", items=items, minItems=kind.min_length, maxItems=kind.max_length)
        case inspect.LiteralType():
            return {"type": "string", "enum": list(kind.values)}
        case inspect.UnionType() if is_int_or_string(kind):
            return _int_or_string(kind)
        case inspect.StrType():
            return _set("string", minLength=kind.min_length, maxLength=kind.max_length)
        case inspect.IntType():
            wide = kind.le is None or kind.le >= 2**31
            return _set("integer", format="int64" if wide else "int32", minimum=kind.ge, maximum=kind.le)
        case inspect.FloatType():
            return {"type": "number"}
        case inspect.BoolType():
            return {"type": "boolean"}
    raise TypeError(f"{path}: a CRD can't hold {kind}")


def _struct(kind: inspect.StructType, path: str, rules: Sequence[Rule]) -> Schema:
    properties = {}
    for field in kind.fields:
        schema = schema_of(field.type, _join(path, field.encode_name), rules)
        if (default := _default(field)) is not None:
            schema["default"] = default
        properties[field.encode_name] = schema
    required = [field.encode_name for field in kind.fields if field.required]
    result: Schema = {"type": "object"}
    if text := kind.cls.__dict__.get("__doc__"):
        result["description"] = python.cleandoc(text).split("\n\n")[0].replace("\n", " ")
    return {**result, **({"required": required} if required else {}), "properties": properties}


def _default(field: inspect.Field) -> Any:
    """What the API server fills in; None where it is the same to leave the field out."""
    value = field.default_factory() if field.default_factory is not NODEFAULT else field.default
    if value is NODEFAULT or value is None or value in ({}, []):
        return None
    if isinstance(value, msgspec.Struct):  # the fields below have their own defaults, but only under a parent
        return {} if _has_defaults(field.type) else None
    return value


def _has_defaults(kind: inspect.Type) -> bool:
    kind = unwrap(kind).kind
    return isinstance(kind, inspect.StructType) and any(_default(field) is not None for field in kind.fields)


def _int_or_string(kind: inspect.UnionType) -> Schema:
    text = string_of(kind)
    longest = text.max_length if isinstance(text, inspect.StrType) else max(len(str(value)) for value in text.values)
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        **({"maxLength": longest} if longest is not None else {}),
    }


def _set(kind: str, **parts: Any) -> Schema:
    return {"type": kind, **{name: value for name, value in parts.items() if value is not None}}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
