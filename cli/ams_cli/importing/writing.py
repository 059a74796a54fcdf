"""Drafts as YAML, with a comment for each thing that somebody should know."""

import textwrap
from collections.abc import Iterable, Iterator

import yaml
from ams_common.printable import printable

from ams_cli.importing.credentials import masked
from ams_cli.importing.results import Note, Outcome
from ams_cli.importing.translate import document_of

_WIDTH = 118


def written(outcome: Outcome) -> str:
    """All documents, as `kubectl apply -f` and `ams up -f` take them."""
    parts = []
    if head := [*_said("The file itself:", outcome.notes)]:
        parts.append("\n".join(head) + "\n")
    parts += [
        "\n".join(_comment(f"Not imported: {refused.title}: {refused.why}", "")) + "\n" for refused in outcome.refused
    ]
    for draft in outcome.drafts:
        lines = [*_comment(f"From {draft.title}", "")]
        lines += _said("No counterpart:", [note for note in draft.notes if note.lost])
        lines += _said("Translated otherwise, or not needed:", [note for note in draft.notes if not note.lost])
        text = yaml.safe_dump(document_of(draft), sort_keys=False, allow_unicode=True, width=_WIDTH)
        parts.append("\n".join(lines) + "\n" + text)
    return "---\n".join(parts)


def losses(outcome: Outcome) -> int:
    """How many things have no counterpart."""
    return sum(note.lost for note in [*outcome.notes, *(note for draft in outcome.drafts for note in draft.notes)])


def _said(heading: str, notes: Iterable[Note]) -> Iterator[str]:
    for index, note in enumerate(dict.fromkeys(notes)):
        if index == 0:
            yield f"# {heading}"
        yield from _comment(f"{note.where}: {note.text}" if note.text else note.where, "  ")


def _comment(text: str, indent: str) -> list[str]:
    """Lines of a comment, whatever is in the text: what comes from a document can't end one."""
    return textwrap.wrap(
        printable(masked(text), 4000),
        _WIDTH,
        initial_indent=f"# {indent}",
        subsequent_indent=f"# {indent}  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
