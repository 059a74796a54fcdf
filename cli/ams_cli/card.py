"""A model as the gateway sees it, from its manifest and its weights."""

import json
from pathlib import Path

from ams_common.quantity import parse_bytes
from ams_common.resource.spec import ModelDeployment
from ams_gateway.registry.port import Model

from ams_cli import weights

_BITS = {"4bit": "4", "8bit": "8"}


def model_card(resource: ModelDeployment, models_dir: Path, created: int, *, always_on: bool) -> Model:
    """Reads config.json if the weights are there. `labels` hold what /admin/model_status tells beside the state."""
    spec = resource.spec
    folder = weights.folder(resource, models_dir)
    family = weights.family(resource, folder)
    labels = {
        "family": family.model_type if family else "",
        "path": str(folder) if folder else "",
        "path_exists": "true" if folder else "",
        "quant_bits": _BITS.get(spec.quantization, ""),
        "max_memory": json.dumps(spec.max_memory) if spec.max_memory else "",
        "replicas": "1" if always_on else "",
    }
    return Model(
        name=resource.metadata.name,
        aliases=tuple(spec.model.aliases),
        modalities=frozenset(family.modalities) if family else None,
        max_body_bytes=parse_bytes(spec.limits.max_body_bytes),
        request_timeout_seconds=float(spec.limits.request_timeout_seconds),
        created=created,
        labels={name: value for name, value in labels.items() if value},
    )
