"""The page's files, read once: each with its type, its gzip, and a tag that changes when it does.

The index names the others below a folder that is called by a hash of them all, so that browsers may keep them for good,
and a new version is never mixed with an old one.
"""

import functools
import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ams_common.errors import ERRORS

INDEX = "index.html"
_FOLDER = Path(__file__).parent / "static"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `tag` is its ETag."""

    content_type: str
    body: bytes
    gzipped: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Assets:
    """All files by name; `version` is the folder that the index names them in."""

    version: str
    files: Mapping[str, Asset]


@functools.cache
def assets() -> Assets:
    """The files of this version of the gateway."""
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.iterdir()) if path.suffix in _TYPES}
    texts["errors.json"] = json.dumps({code: _sentence(kind.meaning) for code, kind in ERRORS.items()})
    version = _hash("\0".join(f"{name}\0{text}" for name, text in sorted(texts.items())).encode())
    modules = [name for name in texts if name.endswith(".js") and name != "app.js"]
    preloads = "\n".join(f'<link rel="modulepreload" href="page/@VERSION@/{name}">' for name in modules)
    texts[INDEX] = texts[INDEX].replace("@PRELOADS@", preloads).replace("@VERSION@", version)
    return Assets(version, {name: _asset(name, text.encode()) for name, text in texts.items()})


def _asset(name: str, body: bytes) -> Asset:
    return Asset(_TYPES[Path(name).suffix], body, gzip.compress(body, 9, mtime=0), f'W/"{_hash(body)}"')


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _sentence(meaning: str) -> str:
    """The meaning of a code as a person reads it on the page."""
    text = meaning.replace("`", "")
    return text[:1].upper() + text[1:] + "."
