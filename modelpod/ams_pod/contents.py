"""What tells the bytes of a folder, or of one file, from those of others without reading them."""

import os
from itertools import islice
from pathlib import Path

from ams_pod.derived import given_files
from ams_pod.download.manifest import read_manifest

_MOST_FILES = 10_000


def contents_of(path: Path) -> list[tuple[str, ...]]:
    """The hashes of a folder's manifest; of a file, or of a folder that was never checked, names, sizes and times.

    Empty where there is nothing. OSError.
    """
    if path.is_file():
        return [_file(path, path.name)]
    if (manifest := read_manifest(path)) is not None:
        made = [("", str(manifest.conversion))] if manifest.conversion else []  # of the same inputs
        return sorted([*((name, digest or "") for name, digest in manifest.digests().items()), *made])
    paths = islice(given_files(path), _MOST_FILES)
    return [_file(each, str(each.relative_to(path))) for each in paths]


def _file(path: Path, name: str) -> tuple[str, ...]:
    status = os.stat(path)
    return name, str(status.st_size), str(status.st_mtime_ns)
