"""How many pods a resource is to have: by its spec, by its load, and one that only downloads."""

from typing import Any

import msgspec
import pytest
from ams_common.labels import PREFETCH
from ams_common.source import parse_source
from ams_kube.objects import Deployment, DeploymentSpec
from ams_operator.decide.replicas import Replicas, desired_replicas, serving_replicas
from ams_operator.decide.workload import workload_of
from plan_objects import OURS, SOURCE, child, resource

SCALES = {"minReplicas": 0, "maxReplicas": 4}


def running(replicas: int, *, prefetch: str | None = None) -> Deployment:
    notes = {PREFETCH: prefetch} if prefetch is not None else {}
    made: Deployment = child(Deployment, owner=OURS, **notes)
    return msgspec.structs.replace(made, spec=DeploymentSpec(replicas=replicas))


def replicas(
    by_load: int | None = None, deployment: Deployment | None = None, *, weights: bool = True, source: str = SOURCE,
    **spec: Any,
) -> Replicas:  # fmt: skip
    given = resource(source, **spec)
    return desired_replicas(given, parse_source(source), by_load, workload_of(deployment), weights=weights)


def test_without_scaling_it_is_what_the_spec_says() -> None:
    assert replicas(cache={"perReplica": True}, replicas=3) == Replicas(3, 3, prefetch=False)
    assert replicas(7, running(5)) == Replicas(1, 1)
    assert replicas(replicas=0) == Replicas(0, 0)


@pytest.mark.parametrize(("by_load", "wanted"), [(0, 0), (1, 1), (4, 4), (9, 4)])
def test_with_scaling_it_is_the_load_within_its_limits(by_load: int, wanted: int) -> None:
    given = {"autoscaling": SCALES, "cache": {"perReplica": True}}
    assert replicas(by_load, running(2), **given) == Replicas(wanted, wanted)
    least = {**given, "autoscaling": {**SCALES, "minReplicas": 1}}
    assert replicas(by_load, running(2), **least).serving == max(1, wanted)


@pytest.mark.parametrize(
    ("deployment", "wanted"), [(None, 0), (running(0), 0), (running(3), 3), (running(1, prefetch="true"), 0)]
)
def test_while_the_load_is_not_known_what_runs_stays(deployment: Deployment | None, wanted: int) -> None:
    given = {"autoscaling": SCALES, "cache": {"perReplica": True}}
    assert replicas(None, deployment, **given) == Replicas(wanted, wanted)


def test_a_suspended_model_has_none_whatever_its_load() -> None:
    given = {"autoscaling": {**SCALES, "minReplicas": 1}, "cache": {"perReplica": True, "prefetch": True}}
    assert replicas(3, running(3), weights=False, suspend=True, **given) == Replicas(0, 0)
    assert (
        replicas(0, weights=False, suspend=True, autoscaling={}, cache={"size": "1Gi", "prefetch": True}).created == 0
    )


def test_a_pod_that_only_downloads_is_made_where_none_serves() -> None:
    given = {"autoscaling": {}, "cache": {"size": "1Gi", "prefetch": True}}
    assert replicas(0, weights=False, **given) == Replicas(0, 1, prefetch=True)
    assert replicas(1, weights=False, **given) == Replicas(1, 1, prefetch=False), "who serves downloads too"
    assert replicas(0, weights=True, **given) == Replicas(0, 0), "they are there"


@pytest.mark.parametrize(
    ("cache", "source"),
    [
        ({"size": "1Gi"}, SOURCE),  # nobody asked for it
        ({"size": "1Gi", "prefetch": True, "perReplica": True}, SOURCE),  # each pod has a volume of its own
        ({"prefetch": True}, "pvc://claim/path"),  # they are somebody's already
    ],
)
def test_nothing_is_fetched_ahead_where_nothing_would_be_kept(cache: dict[str, Any], source: str) -> None:
    assert replicas(0, weights=False, source=source, autoscaling={}, cache=cache) == Replicas(0, 0)


def test_pods_that_only_download_serve_nothing() -> None:
    assert serving_replicas(None) is None
    assert serving_replicas(workload_of(running(2))) == 2
    assert serving_replicas(workload_of(running(2, prefetch="false"))) == 2
    assert serving_replicas(workload_of(running(1, prefetch="true"))) is None
