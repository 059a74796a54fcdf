"""Generated parts of Markdown documents: tables of settings from their structs, and others from who knows them.

`<!-- settings: module:Struct -->` and `<!-- table: module:function -->` begin such a part, `<!-- end -->` ends it.
`python -m ams_common.reference < docs/configuration.md` prints the document with its parts as they have to be.
"""

import importlib
import re
import sys

import msgspec
from msgspec import inspect

from ams_common.options import flag_name, variable_name

_PART = re.compile(r"(<!-- (?P<kind>settings|table): (?P<module>[\w.]+):(?P<name>\w+) -->\n).*?(<!-- end -->)", re.S)


def with_tables(document: str) -> str:
    """The document with each generated part as it has to be: of a struct's settings, or what a function returns."""

    def part(found: "re.Match[str]") -> str:
        source = getattr(importlib.import_module(found["module"]), found["name"])
        text = settings_table(source) if found["kind"] == "settings" else source()
        return f"{found[1]}\n{text}\n{found[5]}"

    return _PART.sub(part, document)


def settings_table(settings: type[msgspec.Struct]) -> str:
    """One row for each field: its flag and variable, the values it takes, its default, what it is for."""
    rows = ["| flag | variable | value | default | |", "|---|---|---|---|---|"]
    told = {field.name: field.type for field in _fields(settings)}
    for field in msgspec.structs.fields(settings):
        kind, description = _plain(told[field.name])
        cells = (
            f"`{_flag(field.name, kind)}`",
            f"`{variable_name(field.name)}`",
            _values(kind),
            _default(field),
            description,
        )
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


def _fields(settings: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(settings)
    assert isinstance(info, inspect.StructType)
    return info.fields


def _plain(kind: inspect.Type) -> tuple[inspect.Type, str]:
    """The type below its description, and the description."""
    if isinstance(kind, inspect.Metadata):
        return kind.type, (kind.extra_json_schema or {}).get("description", "")
    return kind, ""


def _flag(name: str, kind: inspect.Type) -> str:
    flag = flag_name(name)
    return f"{flag}, --no-{flag[2:]}" if isinstance(kind, inspect.BoolType) else flag


def _values(kind: inspect.Type) -> str:
    match kind:
        case inspect.LiteralType():
            return ", ".join(f"`{value}`" for value in kind.values)
        case inspect.BoolType():
            return "`true`, `false`"
        case inspect.IntType() | inspect.FloatType():
            noun = "integer" if isinstance(kind, inspect.IntType) else "number"
            return " ".join([noun, *_range(kind)])
        case _:
            return "text"


def _range(kind: inspect.IntType | inspect.FloatType) -> list[str]:
    least = [f"from {kind.ge:g}"] if kind.ge is not None else [f"above {kind.gt:g}"] if kind.gt is not None else []
    return [*least, *([f"to {kind.le:g}"] if kind.le is not None else [])]


def _default(field: "msgspec.structs.FieldInfo") -> str:
    if field.required:
        return "required"
    if field.default in (None, ""):
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    sys.stdout.write(with_tables(sys.stdin.read()))
