"""Links to weights and adapters at paths that don't depend on them, for the command of an engine beside."""

import os
from collections.abc import Mapping
from pathlib import Path

from ams_common.adapters import LINKS, RANK_FILE
from ams_common.engines.names import EngineName
from ams_common.gguf_embedding import DESCRIPTION, WORD_FILES, Description
from ams_common.hub_files import is_gguf
from ams_common.outside import InvalidJson, read_json
from ams_common.source import FileSource, Source

from ams_pod.layout import gguf_of, inside, keeps_gguf, local_gguf

FOLDER, GGUF = "model", "model.gguf"


def weights_path(folder: Path, source: Source, engine: EngineName) -> Path:
    """What an engine is told to load: the model's folder, or the GGUF file in it or beside."""
    name = gguf_of(source)
    if name is None or not keeps_gguf(engine):
        return folder
    if isinstance(source, FileSource) and (local := local_gguf(source)) is not None:
        return local.absolute()
    return inside(folder, name)


def later_words(folder: Path) -> dict[str, str]:
    """What words in an engine's command stand for: what the download found out of an embedding model's GGUF file."""
    try:
        found = read_json((folder / DESCRIPTION).read_bytes(), Description)
    except (OSError, InvalidJson):
        found = Description()  # of any other
    return found.words()


def make_link(link_dir: Path, folder: Path, source: Source, engine: EngineName) -> Path:
    """The link, made or replaced in one step, and the files that tell of embeddings; one of the other name goes.

    OSError.
    """
    target = weights_path(folder, source, engine)
    own, other = (FOLDER, GGUF) if target == folder else (GGUF, FOLDER)
    _link(link_dir, own, target)
    if (link_dir / other).is_symlink():
        (link_dir / other).unlink()
    for word, value in later_words(folder).items():
        _write(link_dir, WORD_FILES[word], value.encode())
    return link_dir / own


def make_adapter_links(link_dir: Path, adapters: Mapping[str, Path], rank: int | None) -> None:
    """A link to each adapter's folder or GGUF file, no others, and the file that tells the highest rank. OSError."""
    folder = link_dir / LINKS
    if not adapters and not folder.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    names = {f"{name}.gguf" if is_gguf(path.name) and path.is_file() else name: path for name, path in adapters.items()}
    for name, path in names.items():
        _link(folder, name, path)
    for found in folder.iterdir():
        if found.is_symlink() and found.name not in names:
            found.unlink()
    if rank is None:
        (folder / RANK_FILE).unlink(missing_ok=True)
    else:
        write_beside_links(link_dir, RANK_FILE, str(rank).encode())


def write_beside_links(link_dir: Path, name: str, data: bytes) -> None:
    """A file beside the links to adapters, in one step. OSError."""
    _write(link_dir / LINKS, name, data)


def _write(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}"
    scratch.write_bytes(data)
    os.replace(scratch, folder / name)


def _link(folder: Path, name: str, target: Path) -> None:
    """Made or replaced in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}.{os.getpid()}"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, folder / name)
