"""How many pods a resource is to have now, and whether they are to serve or only to download. Pure."""

from dataclasses import dataclass

from ams_common.resource.spec import ModelDeployment
from ams_common.source import Source

from ams_operator.decide.children.volume import keeps_files
from ams_operator.decide.workload import Workload


@dataclass(frozen=True, slots=True)
class Replicas:
    """`serving` pods are asked for; `created` is what the workload gets: one, that serves nothing, for a prefetch."""

    serving: int
    created: int
    prefetch: bool = False


def desired_replicas(
    resource: ModelDeployment,
    source: Source,
    by_load: int | None,
    workload: Workload | None,
    *,
    weights: bool,
    stays: bool = False,
) -> Replicas:
    """`by_load` is None while the load isn't known: then nothing is scaled down. `weights`: they are on the volume.

    `stays`: the last pod doesn't end when nobody asks, as its engine sleeps.
    """
    serving = _serving(resource, by_load, workload, stays=stays)
    cache = resource.spec.cache
    prefetch = cache.prefetch and not weights and not cache.per_replica and keeps_files(resource, source)
    if serving == 0 and prefetch and not resource.spec.suspend:
        return Replicas(0, 1, prefetch=True)
    return Replicas(serving, serving)


def serving_replicas(workload: Workload | None) -> int | None:
    """The replicas that are asked for to serve; None if there is no workload, or it only downloads."""
    return None if workload is None or workload.prefetches else workload.asked


def _serving(resource: ModelDeployment, by_load: int | None, workload: Workload | None, *, stays: bool) -> int:
    spec = resource.spec
    if spec.suspend:
        return 0
    if (limits := spec.autoscaling) is None:
        return spec.replicas
    if by_load is None:
        by_load = serving_replicas(workload) or 0
    least = max(limits.min_replicas, min(1, serving_replicas(workload) or 0) if stays else 0)
    return min(max(by_load, least), limits.max_replicas)
