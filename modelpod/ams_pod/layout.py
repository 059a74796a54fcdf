"""Where weights lie on the models volume.

    <models_dir>/<owner>--<name>/<commit>/                  a finished model of the hub, with manifest.json
    <models_dir>/<owner>--<name>/<commit>--<file>/          the same, converted from one GGUF file
    <models_dir>/<owner>--<name>/refs/<revision>            the commit that a branch or tag meant last time
    <models_dir>/wheels/<distribution>==<version>/<path>/   out of a Python wheel
    <models_dir>/files/<name>-<digest>/<version>/           converted from a GGUF file of this machine
    <any of these folders>.partial/                         not finished

A folder with a manifest is complete: it came there by one rename.
"""

import hashlib
import re
from pathlib import Path
from urllib.parse import quote

from ams_common.hub_files import MANIFEST, is_gguf
from ams_common.source import ClaimSource, FileSource, HubSource, Source, WheelSource

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str | None) -> bool:
    """Whether a revision pins a commit, so that what it means can never change."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_published(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def partial_of(folder: Path) -> Path:
    """The folder that becomes `folder` when everything in it is verified."""
    return folder.with_name(folder.name + ".partial")


def hub_folder(models_dir: Path, source: HubSource, commit: str) -> Path:
    suffix = f"--{_flat(source.file)}" if source.file else ""
    return _repository(models_dir, source) / f"{commit}{suffix}"


def revision_pointer(models_dir: Path, source: HubSource) -> Path:
    """The file that keeps the commit of a branch or tag, for starts without the hub."""
    return _repository(models_dir, source) / "refs" / quote(source.revision or DEFAULT_REVISION, safe="")


def known_commit(models_dir: Path, source: HubSource) -> str | None:
    """The commit that the source's revision is, or was at the last answer of the hub; None if it never was."""
    if source.revision is not None and is_commit(source.revision):
        return source.revision
    try:
        commit = revision_pointer(models_dir, source).read_text().strip()
    except OSError:
        return None
    return commit if is_commit(commit) else None


def wheel_folder(models_dir: Path, source: WheelSource) -> Path:
    return models_dir / "wheels" / f"{source.distribution}=={source.version}" / _flat(source.path)


def converted_folder(models_dir: Path, gguf: Path) -> Path:
    """Where the converted copy of a local GGUF file lies; a changed file gets another folder. OSError if absent."""
    gguf = gguf.resolve()
    stat = gguf.stat()
    digest = hashlib.sha256(str(gguf).encode()).hexdigest()[:12]
    return models_dir / "files" / f"{gguf.name}-{digest}" / f"{stat.st_size}-{stat.st_mtime_ns}"


def local_gguf(source: FileSource) -> Path | None:
    """The GGUF file that a file:// source names, by its path or by ?file=; None for a folder of safetensors."""
    path = Path(source.path) / source.file if source.file else Path(source.path)
    return path if is_gguf(path.name) else None


def find_model(source: Source, models_dir: Path) -> Path | None:
    """The folder that `serve` loads for this source, or None if it isn't there (completely) yet."""
    folder: Path | None
    match source:
        case HubSource():
            commit = known_commit(models_dir, source)
            folder = hub_folder(models_dir, source, commit) if commit else None
        case WheelSource():
            folder = wheel_folder(models_dir, source)
        case FileSource():
            if (gguf := local_gguf(source)) is None:
                return Path(source.path) if (Path(source.path) / "config.json").is_file() else None
            try:
                folder = converted_folder(models_dir, gguf)
            except OSError:
                return None
        case ClaimSource():
            return None
    return folder if folder is not None and is_published(folder) else None


def _repository(models_dir: Path, source: HubSource) -> Path:
    return models_dir / source.repository.replace("/", "--")


def _flat(path: str) -> str:
    return path.strip("/").replace("/", "--")
