"""What the downloaded weights tell about a model: its modalities, and how much memory it takes."""

import json
from pathlib import Path

from ams_common.families import BY_NAME, UnsupportedArchitecture, family_of
from ams_common.resource.spec import ModelDeployment
from ams_common.source import parse_source
from ams_pod.layout import find_model


def folder(resource: ModelDeployment, models_dir: Path) -> Path | None:
    """Where the weights of a model are, once they are there."""
    return find_model(parse_source(resource.spec.model.source), models_dir)


def modalities(resource: ModelDeployment, models_dir: Path) -> frozenset[str] | None:
    """What the model takes: by its manifest, or by config.json once that is there; None if neither tells."""
    if (row := BY_NAME.get(resource.spec.model.family)) is not None:
        return frozenset(row.modalities)
    if (where := folder(resource, models_dir)) is None:
        return None
    try:
        config = json.loads((where / "config.json").read_text())
        return frozenset(family_of(config.get("architectures") or []).modalities)
    except (OSError, ValueError, AttributeError, UnsupportedArchitecture):
        return None


def bytes_on_disk(resource: ModelDeployment, models_dir: Path) -> int:
    """Size of the weights' files, which is about what the model needs of memory; 0 while unknown."""
    where = folder(resource, models_dir)
    return sum(file.stat().st_size for file in where.glob("*.safetensors")) if where else 0
