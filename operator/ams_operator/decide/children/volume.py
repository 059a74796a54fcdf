"""The volume that keeps the weights: which one, how large, and whether it outlives the resource."""

from dataclasses import dataclass

import msgspec
from ams_common import labels
from ams_common.names import child_name
from ams_common.quantity import parse_bytes
from ams_common.resource.spec import CacheSpec, ModelDeployment
from ams_common.resource.status import LockStatus
from ams_common.source import ClaimSource, Source, names_gguf

from ams_operator.decide.children.common import ObjectBody, child_labels, child_metadata

GIBI = 1 << 30
UNKNOWN_BYTES = 20 * GIBI  # of a model whose size isn't known
ADAPTER_BYTES = GIBI  # of each adapter: none is asked for its size
_ADAPTERS_A_STEP = 8
_SPARE = 1.2
# One GGUF file and its conversion: 4 bits a weight become 16.
_CONVERTED = 5.0


@dataclass(frozen=True, slots=True)
class Volume:
    """The `models` volume of the pods; `claim` is whether the operator makes a PersistentVolumeClaim for it."""

    source: ObjectBody
    claim: bool


def models_volume(resource: ModelDeployment, source: Source, size: int) -> Volume:
    cache = resource.spec.cache
    if cache.claim_name is not None:
        return Volume({"persistentVolumeClaim": {"claimName": cache.claim_name}}, claim=False)
    if not keeps_files(resource, source):  # they are on a volume of their own already
        return Volume({"emptyDir": {}}, claim=False)
    if cache.per_replica:
        template = {"metadata": {"labels": child_labels(resource)}, "spec": _claim_spec(cache, size)}
        return Volume({"ephemeral": {"volumeClaimTemplate": template}}, claim=False)
    return Volume({"persistentVolumeClaim": {"claimName": child_name(resource.metadata.name)}}, claim=True)


def keeps_files(resource: ModelDeployment, source: Source) -> bool:
    """Whether there is something to download or convert, that a volume keeps for the next start."""
    adapters = any(not each.source.startswith("pvc://") for each in resource.spec.adapters)
    return not isinstance(source, ClaimSource) or names_gguf(source) or adapters


def needed_bytes(source: Source, weights_bytes: int, *, converted: bool = True) -> int:
    """What a volume must hold for these weights, without anything to spare. `converted`: a GGUF file is unpacked."""
    return int(weights_bytes * _CONVERTED) if converted and names_gguf(source) else weights_bytes


def volume_bytes(
    resource: ModelDeployment,
    source: Source,
    weights_bytes: int | None,
    present: int | None,
    *,
    converted: bool = True,
) -> int:
    """Size to ask for. `present` is what the volume was made with: a size that was chosen here never shrinks."""
    size = resource.spec.cache.size
    if size != "auto":
        return max(parse_bytes(size), present or 0)
    adapters = ADAPTER_BYTES * _adapters_room(resource)
    if isinstance(source, ClaimSource) and not names_gguf(source):
        return max(adapters, GIBI, present or 0)
    if weights_bytes is None:
        return present or UNKNOWN_BYTES + adapters
    desired = needed_bytes(source, weights_bytes, converted=converted) * _SPARE + adapters
    return max(int(-(-desired // GIBI)) * GIBI, GIBI, present or 0)


def _adapters_room(resource: ModelDeployment) -> int:
    """Of how many adapters. A pod's own volume is made with the pod, which isn't to be another for each one more."""
    count = len(resource.spec.adapters)
    return -(-count // _ADAPTERS_A_STEP) * _ADAPTERS_A_STEP if resource.spec.cache.per_replica else count


def claim(resource: ModelDeployment, size: int, weights: str | None, lock: LockStatus | None) -> ObjectBody:
    """The PersistentVolumeClaim. `weights` is the digest of the source whose weights, of this `lock`, are on it."""
    retained = resource.spec.cache.retain == "Retain"
    annotations = {labels.WEIGHTS: weights} if weights is not None else {}
    if lock is not None:
        annotations[labels.LOCK] = msgspec.json.encode(lock).decode()
    if retained:
        annotations[labels.RETAINED_BY] = resource.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": child_metadata(resource, owned=not retained, annotations=annotations),
        "spec": _claim_spec(resource.spec.cache, size),
    }


def _claim_spec(cache: CacheSpec, size: int) -> ObjectBody:
    spec: ObjectBody = {
        "accessModes": [cache.access_mode],
        "resources": {"requests": {"storage": size_text(size)}},
    }
    if cache.storage_class_name is not None:
        spec["storageClassName"] = cache.storage_class_name
    return spec


def size_text(size: int) -> str:
    """A quantity without rounding: `20Gi`, `1536Mi`, `1000`."""
    for unit, suffix in ((GIBI, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")):
        if size % unit == 0:
            return f"{size // unit}{suffix}"
    return str(size)
