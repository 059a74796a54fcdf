"""The tables of docs/resource.md, from the CustomResourceDefinition: every field, what it takes, what it is for."""

from collections.abc import Iterator
from typing import Any

from ams_common.crd import definition

_DEEPEST = 3  # levels of fields below spec that get rows; below them are Kubernetes' own types, as in pods


def spec_table() -> str:
    return _table("spec")


def status_table() -> str:
    return _table("status")


def _table(part: str) -> str:
    schema = definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"][part]
    rows = ["| field | value | default | |", "|---|---|---|---|", *_rows(schema, part, 0)]
    return "\n".join(rows) + "\n"


def _rows(schema: dict[str, Any], path: str, depth: int) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        inner = field.get("items", field) if field.get("type") == "array" else field
        nested = "properties" in inner and depth + 1 < _DEEPEST
        default = "required" if name in required else _default(field)
        cells = (f"`{here}`", "" if nested else _values(field), default, str(field.get("description", "")))
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        if nested:
            yield from _rows(inner, here + ("[]" if inner is not field else ""), depth + 1)


def _values(field: dict[str, Any]) -> str:
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("x-kubernetes-int-or-string"):
        return "number or text"
    match field.get("type"):
        case "array":
            return f"list of {_values(field['items'])}" if field["items"].get("type") != "object" else "list of objects"
        case "object" if "additionalProperties" in field:
            return "text by name"
        case "object":
            return "object"
        case "boolean":
            return "`true`, `false`"
        case "integer" | "number" as kind:
            bounds = [f"{word} {field[key]}" for word, key in (("from", "minimum"), ("to", "maximum")) if key in field]
            return " ".join([kind, *(bound for bound in bounds if not bound.endswith(str(2**31 - 1)))])
        case _:
            return "text"


def _default(field: dict[str, Any]) -> str:
    match field.get("default"):
        case None | {}:
            return ""
        case bool() as value:
            return f"`{str(value).lower()}`"
        case value:
            return f"`{value}`"
