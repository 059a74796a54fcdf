"""What the downloaded weights tell about a model: its family, and how much memory it takes."""

from pathlib import Path

import msgspec
from ams_common.engines.names import EngineName
from ams_common.families import BY_NAME, FamilyRow, UnsupportedArchitecture, family_of
from ams_common.gguf_embedding import EMBEDDING_FILES
from ams_common.outside import InvalidJson, read_json
from ams_common.resource.spec import ModelDeployment
from ams_common.source import FileSource, parse_source
from ams_pod.layout import find_model, local_gguf


class _Config(msgspec.Struct):
    architectures: list[str] = []


def folder(resource: ModelDeployment, models_dir: Path, engine: EngineName = "builtin") -> Path | None:
    """Where the weights of a model are for an engine, once they are there."""
    return find_model(parse_source(resource.spec.model.source), models_dir, engine)


def family(resource: ModelDeployment, where: Path | None) -> FamilyRow | None:
    """The model's family: by its manifest, or by config.json once that is there; None if neither tells."""
    if (row := BY_NAME.get(resource.spec.model.family)) is not None:
        return row
    if where is None:
        return None
    if makes_embeddings(where):
        return BY_NAME["embedding"]
    try:
        return family_of(read_json((where / "config.json").read_bytes(), _Config).architectures)
    except (OSError, InvalidJson, UnsupportedArchitecture):
        return None


def makes_embeddings(where: Path) -> bool:
    """Whether files of the folder say that its model makes vectors or scores, whatever its architecture."""
    return any((where / name).is_file() for name in EMBEDDING_FILES)


def bytes_on_disk(resource: ModelDeployment, where: Path | None) -> int:
    """Size of the weights' files; 0 while unknown."""
    if where is None:
        return 0
    files = list(where.glob("*.safetensors")) or gguf_files(resource, where)
    return sum(file.stat().st_size for file in files)


def gguf_files(resource: ModelDeployment, where: Path) -> list[Path]:
    """The GGUF file that stays as it is for an engine that reads it; one of this machine isn't copied."""
    source = parse_source(resource.spec.model.source)
    local = local_gguf(source) if isinstance(source, FileSource) else None
    return list(where.rglob("*.gguf")) or [file for file in (local,) if file is not None and file.is_file()]
