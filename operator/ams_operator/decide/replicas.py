"""How many pods a resource is to have now, and whether they are to serve or only to fetch. Pure."""

from dataclasses import dataclass

from ams_common.resource.spec import ModelDeployment
from ams_common.source import Source
from ams_kube.objects import Deployment

from ams_operator.decide.children.kinds import ANNOTATION_PREFETCH
from ams_operator.decide.children.volume import keeps_weights


@dataclass(frozen=True, slots=True)
class Wanted:
    """`serving` pods are asked for; `replicas` is what the Deployment gets, one more thing while it prefetches."""

    serving: int
    replicas: int
    prefetch: bool = False


def wanted(
    resource: ModelDeployment, source: Source, by_load: int | None, present: Deployment | None, *, weights: bool
) -> Wanted:
    """`by_load` is None while the load isn't known: then nothing is scaled down. `weights`: they are on the volume."""
    serving = _serving(resource, by_load, present)
    cache = resource.spec.cache
    fetch = cache.prefetch and not weights and not cache.per_replica and keeps_weights(source)
    if serving == 0 and fetch and not resource.spec.suspend:
        return Wanted(0, 1, prefetch=True)
    return Wanted(serving, serving)


def _serving(resource: ModelDeployment, by_load: int | None, present: Deployment | None) -> int:
    spec = resource.spec
    if spec.suspend:
        return 0
    if (limits := spec.autoscaling) is None:
        return spec.replicas
    if by_load is None:
        by_load = _served_by(present)
    return min(max(by_load, limits.min_replicas), limits.max_replicas)


def _served_by(present: Deployment | None) -> int:
    if present is None or present.metadata.annotations.get(ANNOTATION_PREFETCH) == "true":
        return 0
    return present.spec.replicas
