"""A link to the weights at a path that doesn't depend on them, for the command of an engine beside."""

import os
from pathlib import Path

from ams_common.engines.names import EngineName
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


def make_link(link_dir: Path, folder: Path, source: Source, engine: EngineName) -> Path:
    """The link, made or replaced in one step; one of the other name goes. OSError."""
    target = weights_path(folder, source, engine)
    own, other = (FOLDER, GGUF) if target == folder else (GGUF, FOLDER)
    link_dir.mkdir(parents=True, exist_ok=True)
    scratch = link_dir / f".{own}.{os.getpid()}"
    scratch.unlink(missing_ok=True)
    scratch.symlink_to(target)
    os.replace(scratch, link_dir / own)
    if (link_dir / other).is_symlink():
        (link_dir / other).unlink()
    return link_dir / own
