"""`ams import`: reads files, writes ModelDeployments."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from ams_common.printable import printable

from ams_cli.importing.credentials import masked
from ams_cli.importing.results import ForeignError, Outcome
from ams_cli.importing.translate import Source, translate_all
from ams_cli.importing.writing import losses, written
from ams_cli.manifests import STDIN, ManifestError, read_documents

_LONGEST_LINE = 4000


def run(paths: list[str], product: str, output: str, environment: Mapping[str, str]) -> bool:
    """Write what the files hold; whether all of it was imported. ManifestError says what can't be read or written."""
    text, outcome = imported_text(paths, product, environment)
    if output:
        _write(Path(output), text, paths)
    else:
        sys.stdout.write(text)
    print(_summary(outcome), file=sys.stderr)
    return not outcome.refused


def imported_text(paths: list[str], product: str, environment: Mapping[str, str]) -> tuple[str, Outcome]:
    """What files hold as ModelDeployments in YAML, and what became of each; ManifestError as `run`."""
    sources = [
        Source(document.where, document.value, folder)
        for path in paths
        for folder in [_folder(path)]
        for document in read_documents([path])
    ]
    try:
        outcome = translate_all(sources, product, environment)
    except ForeignError as error:
        raise ManifestError("\n".join(_shown(line) for line in str(error).split("\n"))) from None
    if not outcome.drafts and not outcome.refused:
        what = "model of a product that is known: docs/moving-in.md" if product == "auto" else f"model of {product}"
        told = [note for note in outcome.notes if note.where.endswith("catalog") or note.text.startswith("passed over")]
        off = "".join(f"; {_shown(note.text)}" for note in told)
        raise ManifestError(f"{', '.join(paths)}: holds no {what}{off}")
    return written(outcome), outcome


def _summary(outcome: Outcome) -> str:
    models, lost, refused = len(outcome.drafts), losses(outcome), len(outcome.refused)
    lines = [f"ams: {models} {'model' if models == 1 else 'models'} imported"]
    if lost:
        lines.append(f"ams: {lost} {'thing has' if lost == 1 else 'things have'} no counterpart: see the comments")
    lines += [f"ams: not imported: {each.title}: {each.why}" for each in outcome.refused] if refused else []
    return "\n".join(map(_shown, lines))


def _shown(line: str) -> str:
    """A line as a terminal may have it: what documents hold does nothing there."""
    return printable(masked(line), _LONGEST_LINE)


def _folder(path: str) -> str:
    if path == STDIN:
        return os.getcwd()
    here = Path(path).absolute()
    return str(here if here.is_dir() else here.parent)


def _write(path: Path, text: str, inputs: list[str]) -> None:
    try:
        if any(name != STDIN and path.exists() and path.samefile(name) for name in inputs):
            raise ManifestError(f"--output {path}: is what is imported; name another file")
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ManifestError(f"--output {path}: {error.strerror or error}") from None
