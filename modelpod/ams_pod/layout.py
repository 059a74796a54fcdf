"""Where weights lie on the models volume.

    <models_dir>/<owner>--<name>/<commit>/                  a finished model of the hub, with manifest.json
    <models_dir>/<owner>--<name>/<commit>--<file>/          the same, converted from one GGUF file
    <models_dir>/<owner>--<name>/refs/<revision>            the commit that a branch or tag meant last time
    <models_dir>/wheels/<distribution>==<version>/<path>/   out of a Python wheel
    <models_dir>/files/<name>-<digest>/<version>/           converted from a GGUF file of this machine
    <a folder of a GGUF file>--kept/                        the file as it is, for an engine that reads it, with what
                                                            prompts need
    <a folder>--adapter/                                    a LoRA adapter of that source
    <any of these folders>/derived/                         what pods made of it for their next start (`derived.py`)
    <models_dir>/files/<name>-<digest>/derived/             the same of a folder elsewhere on this machine
    <any of these folders>.partial/                         not finished
    <any of these folders>.replaced/                        of an earlier version, about to be removed

A folder with a manifest is complete: it came there by one rename. Names in these paths come from resources, hubs and
wheels: `inside` makes each of them, and no path leaves its root.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from ams_common.engines.names import EngineName
from ams_common.hub_files import ADAPTER_CONFIG, MANIFEST, is_gguf, is_inside
from ams_common.source import ClaimSource, FileSource, HubSource, Source, WheelSource

DEFAULT_REVISION = "main"

_COMMIT = re.compile(r"[0-9a-f]{40}")


class OutsideRoot(ValueError):
    """A name would lead out of the folder that it belongs into; the message is a sentence."""


def inside(root: Path, path: str) -> Path:
    """`root` joined with a relative path that somebody else named. OutsideRoot unless it lies below `root`."""
    if not is_inside(path):
        raise OutsideRoot(f"{ascii(path)[:300]} is no path inside {root}; nothing was written.")
    return root / path


def is_commit(revision: str | None) -> bool:
    """Whether a revision pins a commit, so that what it means can never change."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def is_published(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def partial_of(folder: Path) -> Path:
    """The folder that becomes `folder` when everything in it is verified."""
    return folder.with_name(folder.name + ".partial")


def hub_folder(models_dir: Path, source: HubSource, commit: str) -> Path:
    """OutsideRoot if `commit` is none."""
    if not is_commit(commit):
        raise OutsideRoot(f"{ascii(commit)[:300]} is no commit of {source.repository}; nothing was written.")
    suffix = f"--{_flat(source.file)}" if source.file else ""
    return inside(_repository(models_dir, source), f"{commit}{suffix}")


def revision_pointer(models_dir: Path, source: HubSource) -> Path:
    """The file that keeps the commit of a branch or tag, for starts without the hub. OutsideRoot."""
    return inside(_repository(models_dir, source) / "refs", quote(source.revision or DEFAULT_REVISION, safe=""))


def known_commit(models_dir: Path, source: HubSource) -> str | None:
    """The commit that the source's revision is, or was at the last answer of the hub; None if it never was."""
    if source.revision is not None and is_commit(source.revision):
        return source.revision
    try:
        commit = revision_pointer(models_dir, source).read_bytes()[:100].decode("ascii", "replace").strip()
    except (OSError, OutsideRoot):
        return None
    return commit if is_commit(commit) else None


def wheel_folder(models_dir: Path, source: WheelSource) -> Path:
    """OutsideRoot if the path in the wheel is none, as `.`."""
    wheel = inside(models_dir / "wheels", f"{source.distribution}=={source.version}")
    return inside(wheel, _flat(source.path))


def converted_folder(models_dir: Path, gguf: Path) -> Path:
    """Where the converted copy of a local GGUF file lies; a changed file gets another folder. OSError if absent."""
    gguf = gguf.resolve()
    stat = gguf.stat()
    digest = hashlib.sha256(str(gguf).encode()).hexdigest()[:12]
    return inside(models_dir / "files", f"{gguf.name}-{digest}") / f"{stat.st_size}-{stat.st_mtime_ns}"


def local_gguf(source: FileSource) -> Path | None:
    """The GGUF file that a file:// source names, by its path or by ?file=; None for a folder of safetensors."""
    path = Path(source.path) / source.file if source.file else Path(source.path)
    return path if is_gguf(path.name) and not path.is_dir() else None  # folders here are called after their file


def keeps_gguf(engine: EngineName) -> bool:
    """Whether the engine reads GGUF files itself."""
    return engine in ("llamacpp", "custom")


def gguf_of(source: Source) -> str | None:
    """The GGUF file that a source names; None where it names a model of several files."""
    match source:
        case HubSource():
            return source.file
        case WheelSource():
            return source.path if is_gguf(source.path) else None
        case FileSource():
            return str(local_gguf(source) or "") or None
        case ClaimSource():
            return None


def kept_folder(folder: Path) -> Path:
    """The folder of a GGUF file that is kept, from that of what it would be converted to."""
    return folder.with_name(f"{folder.name}--kept")


def adapter_folder(folder: Path) -> Path:
    """The folder of a source as a LoRA adapter, from that of the same source as a model."""
    return folder.with_name(f"{folder.name}--adapter")


def engine_folder(folder: Path, source: Source, engine: EngineName) -> Path:
    """The folder of a source as this engine needs it, from that of the builtin one."""
    return kept_folder(folder) if keeps_gguf(engine) and gguf_of(source) is not None else folder


def find_model(source: Source, models_dir: Path, engine: EngineName = "builtin") -> Path | None:
    """The folder that `serve` loads for this source and engine, or None if it isn't there (completely) yet."""
    folder: Path | None
    match source:
        case HubSource():
            commit = known_commit(models_dir, source)
            folder = _or_none(lambda: hub_folder(models_dir, source, commit)) if commit else None
        case WheelSource():
            folder = _or_none(lambda: wheel_folder(models_dir, source))
        case FileSource():
            if (gguf := local_gguf(source)) is None:
                return Path(source.path) if (Path(source.path) / "config.json").is_file() else None
            try:
                folder = converted_folder(models_dir, gguf)
            except (OSError, OutsideRoot):
                return None
        case ClaimSource():
            return None
    if folder is not None:
        folder = engine_folder(folder, source, engine)
    return folder if folder is not None and is_published(folder) else None


def find_adapter(source: Source, models_dir: Path) -> Path | None:
    """The folder of a LoRA adapter, or the GGUF file of this machine; None if it isn't there (completely) yet."""
    match source:
        case HubSource():
            commit = known_commit(models_dir, source)
            folder = _or_none(lambda: hub_folder(models_dir, source, commit)) if commit else None
        case WheelSource():
            folder = _or_none(lambda: wheel_folder(models_dir, source))
        case FileSource():
            if (gguf := local_gguf(source)) is not None:
                return gguf.absolute() if gguf.is_file() else None
            return Path(source.path) if (Path(source.path) / ADAPTER_CONFIG).is_file() else None
        case ClaimSource():
            return None
    folder = adapter_folder(folder) if folder is not None else None
    return folder if folder is not None and is_published(folder) else None


def _or_none(folder: Callable[[], Path]) -> Path | None:
    try:
        return folder()
    except OutsideRoot:
        return None


def _repository(models_dir: Path, source: HubSource) -> Path:
    return inside(models_dir, source.repository.replace("/", "--"))


def _flat(path: str) -> str:
    return path.strip("/").replace("/", "--")
