"""Columns of text, as kubectl prints them."""

from collections.abc import Sequence


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Cells padded to their column's width, three blanks between."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
