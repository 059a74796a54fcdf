"""Engines of other makes, one row each; the builtin engine has none."""

from ams_common.engines import custom, llamacpp, sglang, vllm
from ams_common.engines.names import EngineName
from ams_common.engines.row import EngineRow

ROWS: dict[EngineName, EngineRow] = {
    row.name: row for row in (vllm.ROW, sglang.ROW, llamacpp.ROW, custom.ROW)
}  # fmt: skip


def row_of(name: EngineName) -> EngineRow | None:
    """None for the builtin engine, which is no program of its own."""
    return ROWS.get(name)


def fields_table(row: EngineRow) -> str:
    """What becomes of the resource's fields, as a Markdown table."""
    lines = ["| field | becomes |", "|---|---|"]
    lines += [f"| {field} | {argument} |" for field, argument in row.fields]
    return "\n".join(lines) + "\n"


def fields_tables() -> str:
    """Of all engines, each below its heading."""
    return "\n".join(f"### {row.title}\n\n{fields_table(row)}" for row in ROWS.values())
