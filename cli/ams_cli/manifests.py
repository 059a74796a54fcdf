"""ModelDeployments from YAML and JSON files, as `kubectl apply -f` takes them."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from ams_common.names import KIND, resource_name
from ams_common.quantity import format_bytes
from ams_common.resource.parse import InvalidResource, parse_model_deployment
from ams_common.resource.spec import ModelDeployment

from ams_cli.yaml_loader import load_yaml

QUICKSTART = Path(__file__).with_name("quickstart.yaml")
_SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"
_MOST_BYTES = 16 << 20


class ManifestError(Exception):
    """A manifest that can't be used: one line for each thing wrong, each naming the file and the path in it."""


@dataclass(frozen=True, slots=True)
class Manifests:
    """What was read: valid models by name, and lines about documents that were skipped."""

    models: list[ModelDeployment]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Document:
    """One document, and where it is: its file, and which of several it is."""

    where: str
    value: Any


def load_manifests(paths: Sequence[str]) -> Manifests:
    """Read files, folders (not their subfolders) and `-`, the standard input. ManifestError names all mistakes."""
    found: list[tuple[str, ModelDeployment]] = []
    notes: list[str] = []
    mistakes: list[str] = []
    for document in read_documents(paths):
        kind = document.value.get("kind") if isinstance(document.value, dict) else None
        if isinstance(kind, str) and kind != KIND:
            notes.append(f"{document.where}: skipped {kind}: only {KIND} is served here")
            continue
        try:
            found.append((document.where, parse_model_deployment(document.value)))
        except InvalidResource as error:
            mistakes += [f"{document.where}: {problem}" for problem in error.problems]
    mistakes += _clashes(found)
    if not mistakes and not found:
        mistakes.append(f"{', '.join(paths)}: contains no {KIND}")
    if mistakes:
        raise ManifestError("\n".join(mistakes))
    return Manifests(sorted((resource for _, resource in found), key=lambda each: each.metadata.name), notes)


def _clashes(found: Iterable[tuple[str, ModelDeployment]]) -> Iterator[str]:
    """Names that two resources claim: a request for one of them could mean both."""
    owners: dict[str, tuple[str, str]] = {}
    for where, resource in found:
        name = resource.metadata.name
        claims = [("metadata.name", name)]
        claims += [(f"spec.model.aliases[{i}]", alias) for i, alias in enumerate(resource.spec.model.aliases)]
        for path, claim in claims:
            owner, owned_by = owners.setdefault(resource_name(claim), (name, where))
            if owned_by != where or owner != name:
                yield f"{where}: {path}: {claim!r} is already {owner} in {owned_by}"


def read_documents(paths: Sequence[str]) -> Iterator[Document]:
    """The documents of files, folders and `-`, those of a List one by one. ManifestError names what can't be read."""
    for path in paths:
        for name, text in _texts(path):
            try:
                values = [value for value in load_yaml(text) if value is not None]
            except yaml.YAMLError as error:
                hint = "; a template of Helm? Write it out with `helm template` first" if "{{" in text else ""
                raise ManifestError(f"{name}{_yaml_problem(error)}{hint}") from None
            flat = [item for value in values for item in _items(value)]
            for number, value in enumerate(flat, start=1):
                yield Document(name if len(flat) == 1 else f"{name} (document {number})", value)


def _texts(path: str) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        text = sys.stdin.read(_MOST_BYTES + 1)
        if len(text) > _MOST_BYTES:
            raise ManifestError(f"standard input: larger than {format_bytes(_MOST_BYTES)}, so not a manifest")
        yield "standard input", text
        return
    here = Path(path)
    try:
        files = [here]
        if here.is_dir():
            files = sorted(file for file in here.iterdir() if file.suffix in _SUFFIXES and file.is_file())
            if not files:
                raise ManifestError(f"{path}: the folder contains no {', '.join(_SUFFIXES)} files")
        for file in files:
            if file.stat().st_size > _MOST_BYTES:
                raise ManifestError(f"{file}: larger than {format_bytes(_MOST_BYTES)}, so not a manifest")
            yield str(file), file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ManifestError(f"{path}: {error.strerror or error}") from None


def _items(value: Any) -> list[Any]:
    """The objects of a `kind: List`, which `kubectl get -o yaml` writes, or the object itself."""
    if isinstance(value, dict) and value.get("kind") == "List" and isinstance(value.get("items"), list):
        return list(value["items"])
    return [value]


def _yaml_problem(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{place}: {getattr(error, 'problem', None) or str(error).splitlines()[0]}"
