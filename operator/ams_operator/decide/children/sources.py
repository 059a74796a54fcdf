"""Volumes of the cluster that weights and adapters are on already: how pods mount them, and what they name them."""

import hashlib
from dataclasses import dataclass

from ams_common.adapters import AdapterSettings, adapters_text
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import adapters_of
from ams_common.source import ClaimSource, InvalidSource, Source, parse_source

from ams_operator.decide.children.common import ObjectBody

_FOLDER = "/source"


@dataclass(frozen=True, slots=True)
class _Place:
    volume: str
    folder: str


def source_volumes(resource: ModelDeployment) -> list[ObjectBody]:
    return [
        {"name": place.volume, "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}
        for claim, place in _places(resource).items()
    ]


def source_mounts(resource: ModelDeployment) -> list[ObjectBody]:
    return [{"name": place.volume, "mountPath": place.folder, "readOnly": True} for place in _places(resource).values()]


def pod_source(resource: ModelDeployment) -> str:
    """The model's source as the pod sees it: a volume's folder is a folder of its own."""
    return _seen(resource.spec.model.source, _places(resource))


def pod_adapters(resource: ModelDeployment) -> list[AdapterSettings]:
    """With sources as the pod sees them."""
    places = _places(resource)
    return [AdapterSettings(each.name, _seen(each.source, places), each.lock) for each in adapters_of(resource)]


def pod_adapters_text(resource: ModelDeployment) -> str:
    """The pod's setting."""
    return adapters_text(pod_adapters(resource))


def _seen(text: str, places: dict[str, _Place]) -> str:
    source = _source(text)
    if not isinstance(source, ClaimSource):
        return text
    path = f"file://{places[source.claim].folder}/{source.path}".rstrip("/")
    return f"{path}?file={source.file}" if source.file else path


def _places(resource: ModelDeployment) -> dict[str, _Place]:
    """By claim, each once; the model's is the first. Others are called after their claim: one that is added or goes
    renames none, so that a pod knows its own."""
    model = resource.spec.model.source
    places: dict[str, _Place] = {}
    for text in (model, *(each.source for each in resource.spec.adapters)):
        source = _source(text)
        if isinstance(source, ClaimSource) and source.claim not in places:
            suffix = "" if text == model else f"-{hashlib.sha256(source.claim.encode()).hexdigest()[:8]}"
            places[source.claim] = _Place(f"source{suffix}", f"{_FOLDER}{suffix}")
    return places


def _source(text: str) -> Source | None:
    try:
        return parse_source(text)
    except InvalidSource:
        return None
