"""Of the plan: what counts as movement, when to look again, and what is removed or refused."""

from typing import Any

import msgspec
import pytest
from ams_common.lifecycle import Phase
from ams_common.progress import Download, Progress
from ams_kube.objects import Deployment, DeploymentSpec, DeploymentStatus, MetadataOnly, Pod
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import movement, plan
from ams_operator.decide.preflight.report import HubReport
from plan_objects import NOW, OTHER, OURS, SETTINGS, child, resource

LIMIT = SETTINGS.progress_deadline_seconds
DOWNLOADS = msgspec.convert(
    {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True"}],
            "initContainerStatuses": [{"name": "download", "state": {"running": {}}}],
        },
    },
    Pod,
)


def deployment(replicas: int = 1, updated: int = 1, available: int = 1, desired: int = 1) -> Deployment:
    made: Deployment = child(Deployment, owner=OURS)
    status = DeploymentStatus(replicas=replicas, updated_replicas=updated, available_replicas=available)
    return msgspec.structs.replace(made, spec=DeploymentSpec(replicas=desired), status=status)


def observed(given: Deployment | None = None, progress: Progress | None = None, **more: Any) -> Observed:
    children = {"Deployment": given} if given is not None else {}
    told = {"p": progress} if progress is not None else {}
    pods = [DOWNLOADS] if progress is not None else []
    return Observed(resource(), children, pods, progress=told, report=HubReport(), **more)


def test_nothing_moves_while_all_is_as_it_was() -> None:
    assert movement(observed(deployment()), NOW) == movement(observed(deployment()), NOW + 1000)
    assert movement(observed(), NOW) == movement(observed(), NOW)


@pytest.mark.parametrize(
    "other", [deployment(replicas=2), deployment(updated=0), deployment(available=0), None], ids=repr
)
def test_a_count_of_pods_is_movement(other: Deployment | None) -> None:
    assert movement(observed(other), NOW) != movement(observed(deployment()), NOW)


@pytest.mark.parametrize(
    "other",
    [
        Progress(Phase.DOWNLOADING, 10.0, download=Download(bytesDone=11)),
        Progress(Phase.DOWNLOADING, 11.0, download=Download(bytesDone=10)),
        Progress(Phase.VERIFYING, 10.0, download=Download(bytesDone=10)),
        Progress(Phase.DOWNLOADING, 10.0),
        None,
    ],
    ids=repr,
)
def test_a_byte_a_percent_and_a_phase_are_movement(other: Progress | None) -> None:
    before = Progress(Phase.DOWNLOADING, 10.0, download=Download(bytesDone=10))
    assert movement(observed(deployment(), other), NOW) != movement(observed(deployment(), before), NOW)
    again = Progress(Phase.DOWNLOADING, 10.0, message="others words", download=Download(bytesDone=10))
    assert movement(observed(deployment(), again), NOW) == movement(observed(deployment(), before), NOW)


@pytest.mark.parametrize(
    ("given", "moved_at", "look_in"),
    [
        (deployment(), NOW, None),  # nothing is under way
        (deployment(available=0), NOW, LIMIT),
        (deployment(updated=0), NOW, LIMIT),
        (deployment(replicas=2), NOW, LIMIT),
        (deployment(desired=2), NOW, LIMIT),
        (deployment(available=0), NOW - 100, LIMIT - 100),
        (deployment(available=0), NOW - LIMIT + 0.5, 1.0),
        (deployment(available=0), NOW - LIMIT, None),  # it has been told
        (deployment(available=0), None, None),
        (None, NOW, None),
    ],
)
def test_it_is_looked_again_when_there_is_something_to_tell(
    given: Deployment | None, moved_at: float | None, look_in: float | None
) -> None:
    assert plan(observed(given, moved_at=moved_at), SETTINGS, NOW).deadline_in == look_in


def test_what_somebody_else_has_to_change_is_looked_at_again() -> None:
    assert plan(observed(), SETTINGS, NOW).requeue_after is None
    assert plan(observed(refused_children={"Service": "no"}), SETTINGS, NOW).requeue_after == 30.0
    taken = {"Service": child(MetadataOnly, owner=OTHER)}
    assert plan(Observed(resource(), taken, report=HubReport()), SETTINGS, NOW).requeue_after == 30.0
    local = Observed(resource("file:///srv/model"))
    assert plan(local, SETTINGS, NOW).requeue_after is None, "only the resource itself can change that"


def test_a_child_that_is_not_needed_goes_unless_it_is_a_volume_or_anothers() -> None:
    children = {
        "NetworkPolicy": child(MetadataOnly, owner=OURS),
        "PersistentVolumeClaim": child(MetadataOnly, owner=OURS),
    }
    claimed = resource("pvc://claim/path", cache={})
    assert plan(Observed(claimed, children), SETTINGS, NOW).remove == ("NetworkPolicy",)
    others = {"NetworkPolicy": child(MetadataOnly, owner=None)}
    assert plan(Observed(claimed, others), SETTINGS, NOW).remove == ()


@pytest.mark.parametrize(
    ("spec", "accepted"),
    [
        ({"replicas": 1}, True),
        ({"replicas": 2}, False),
        ({"replicas": 2, "cache": {"size": "1Gi", "perReplica": True}}, True),
        ({"replicas": 2, "cache": {"size": "1Gi", "accessMode": "ReadWriteMany"}}, True),
        ({"autoscaling": {"maxReplicas": 2}}, False),
        ({"autoscaling": {"maxReplicas": 1}}, True),
    ],
)
def test_how_many_replicas_a_cache_of_one_node_allows(spec: dict[str, Any], accepted: bool) -> None:
    given = msgspec.convert(
        {"metadata": {"name": "tiny", "namespace": "models", "uid": "u-1"}, "spec": {
            "model": {"source": "hf://a/b"}, "cache": {"size": "1Gi"}, **spec}},
        type(resource()),
    )  # fmt: skip
    told = {
        each.type: each for each in plan(Observed(given, report=HubReport()), SETTINGS, NOW).status.conditions or ()
    }
    assert (told["Accepted"].status, told["Accepted"].reason == "CacheNotShareable") == (
        "True" if accepted else "False",
        not accepted,
    )
