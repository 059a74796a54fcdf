"""A picture of what a command printed: `… | python site/terminal.py docs/pictures/NAME.svg 'the command'`."""

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def picture(text: str, title: str) -> str:
    """An SVG as wide as the longest line. What it refers to elsewhere, such as fonts, is left out."""
    lines = text.rstrip("\n").split("\n")
    console = Console(record=True, width=max(map(len, lines)), file=io.StringIO())
    for line in lines:
        console.print(Text(line), soft_wrap=True)
    svg = console.export_svg(title=title)
    start, end = svg.index("@font-face"), svg.rindex("@font-face")
    end = svg.index("}", end) + 1
    return svg[:start] + svg[end:].lstrip().replace("Fira Code", "ui-monospace")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(sys.stdin.read(), sys.argv[2]))
