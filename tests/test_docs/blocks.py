"""Pages of the documentation as programs: their blocks in order, with what each command is to print.

A console block holds commands, after `$ ` and with further lines after `> ` or a backslash, and below each the output
that readers see. `...` in it stands for anything, a line of its own for any lines. A comment above a block says more:

- `<!-- skip: why -->`: not executed;
- `<!-- background: text -->`: the command stays while the page runs, once it has printed the text;
- `<!-- until -->`: asked again until the output is what is shown, half a minute long;
- `<!-- run: python -->`: a Python block that is executed;
- `<!-- cluster -->`: executed on a cluster, where the rest of the page is for a laptop.
"""

import re
from dataclasses import dataclass

_FENCE = re.compile(
    r"^(?:<!-- (?P<word>skip|background|until|run|cluster)(?:: (?P<more>[^\n]*?))? -->\n)?"
    r"```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One command with the output that is shown for it, or a Python program (then `is_python`)."""

    command: str
    output: str = ""
    is_python: bool = False
    background: str | None = None  # what it prints once it has started
    is_repeated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    steps: tuple[Step, ...]
    cluster_steps: tuple[Step, ...]
    skipped: tuple[str, ...]  # reasons, one a block


def read_page(markdown: str) -> Page:
    """The steps of a page. ValueError for a console block without a command."""
    steps: list[Step] = []
    cluster_steps: list[Step] = []
    skipped: list[str] = []
    for fence in _FENCE.finditer(markdown):
        word, more = fence["word"], (fence["more"] or "").strip()
        if word == "skip":
            skipped.append(more)
        elif fence["language"] == "python" and word == "run":
            steps.append(Step(fence["body"], is_python=True))
        elif fence["language"] == "console":
            background = more if word == "background" else None
            place = cluster_steps if word == "cluster" else steps
            place.extend(_commands(fence["body"], background, word == "until"))
    return Page(tuple(steps), tuple(cluster_steps), tuple(skipped))


def _commands(body: str, background: str | None, is_repeated: bool) -> list[Step]:
    if not body.startswith("$ "):
        raise ValueError(f"a console block begins with a command: {body[:60]!r}")
    steps = []
    for part in re.split(r"^\$ ", body, flags=re.M)[1:]:
        lines = part.splitlines()
        command = [lines.pop(0)]
        while lines and (command[-1].endswith("\\") or lines[0].startswith("> ")):
            command.append(lines.pop(0).removeprefix("> "))
        steps.append(Step("\n".join(command), "\n".join(lines), background=background, is_repeated=is_repeated))
    return steps


def matches(shown: str, printed: str) -> bool:
    """Whether a command printed what the page shows; without anything shown it may print what it likes."""
    if not shown.strip():
        return True
    lines = [
        r"(?:[^\n]*\n)*" if line.strip() == "..." else _pattern(line) + r"[ \t]*\n"
        for line in shown.strip("\n").split("\n")
    ]
    return re.fullmatch("".join(lines), printed.strip("\n") + "\n") is not None


def _pattern(line: str) -> str:
    """Spaces in a row are as wide as a table makes them."""
    parts = [re.sub(r"(?:\\ ){2,}", r"[ ]+", re.escape(part)) for part in line.rstrip().split("...")]
    return r"[^\n]*".join(parts)
