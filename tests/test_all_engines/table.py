"""The table of docs/engines-conformance.md: columns of engines, read from the page and written to it. Pure.

A run knows only the engines that it tried; what others were seen to do before is read from the page as it is and stays,
under the versions that it was seen with.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

ENGINES = ("builtin", "llamacpp", "vllm", "sglang", "custom")
NOT_TRIED = "not tried"
_PRODUCT = "with AI Model Server"
_ROW = re.compile(r"\| (?P<row>.*?) \| (?P<cells>.*) \|")


@dataclass(frozen=True)
class Section:
    """A table of the page: its heading, what stands between that and the table, and its rows."""

    title: str
    text: str
    rows: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """What one engine was seen to do: a cell of each row that was tried. `product` is our version at that time."""

    engine: str
    version: str = ""
    product: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return f"{self.engine} {self.version}".strip()


def yes_or_no(*, passed: bool) -> str:
    return "yes" if passed else "**no**"


def cannot(reason: str) -> str:
    """The cell of what an engine can't do; the suite saw that it is refused."""
    return "no: " + " ".join(reason.replace("|", "/").split())


def with_cell(column: Column, row: str, cell: str) -> Column:
    """A row is as bad as the worst that was seen of it."""
    before = column.cells.get(row, "yes")
    return replace(column, cells={**column.cells, row: cell if before == "yes" else before})


def merged(before: Sequence[Column], now: Sequence[Column]) -> list[Column]:
    """Columns of engines that were tried now replace what was there; rows that weren't tried stay of equal versions."""
    found = {column.engine: column for column in before}
    for column in now:
        old = found.get(column.engine)
        if old is not None and (old.version, old.product) == (column.version, column.product):
            column = replace(column, cells={**old.cells, **column.cells})
        found[column.engine] = column
    order = {engine: at for at, engine in enumerate(ENGINES)}
    return sorted(found.values(), key=lambda column: (order.get(column.engine, len(order)), column.engine))


def written(head: str, sections: Sequence[Section], columns: Sequence[Column]) -> str:
    """The page."""
    parts = [head.rstrip()]
    for section in sections:
        lines = ["| |" + "".join(f" {column.head} |" for column in columns), "|---|" + "---|" * len(columns)]
        lines.append(f"| {_PRODUCT} |" + "".join(f" {column.product} |" for column in columns))
        lines += [_line(row, columns) for row in section.rows]
        parts += [f"## {section.title}", section.text, "\n".join(lines)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(row: str, columns: Sequence[Column]) -> str:
    return f"| {row} |" + "".join(f" {column.cells.get(row, NOT_TRIED)} |" for column in columns)


def read(page: str) -> list[Column]:
    """The columns of a page that `written` made; none of one that has no such table."""
    columns: dict[str, Column] = {}
    heads: list[str] = []
    for line in page.splitlines():
        if line.startswith("| |"):
            heads = [each.strip() for each in line.strip("| ").split("|")]
            for each in heads:
                engine, _, version = each.partition(" ")
                columns.setdefault(engine, Column(engine, version))
        elif heads and (found := _ROW.fullmatch(line)) is not None:
            cells = [each.strip() for each in found["cells"].split(" | ")]
            for each, cell in zip(heads, cells, strict=False):
                engine = each.partition(" ")[0]
                column = columns[engine]
                if found["row"] == _PRODUCT:
                    columns[engine] = replace(column, product=cell)
                elif cell != NOT_TRIED:
                    columns[engine] = replace(column, cells={**column.cells, found["row"]: cell})
    return list(columns.values())
