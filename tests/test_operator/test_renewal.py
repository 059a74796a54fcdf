"""An upgrade renews running models a few at a time; what a user changes takes effect at once."""

from typing import Any

import msgspec
import pytest
from ams_common import labels
from ams_kube.objects import Deployment, DeploymentStatus
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from ams_operator.decide.preflight.report import HubReport
from ams_operator.decide.renewal import GATHER_SECONDS, Renewals
from plan_objects import NOW, OURS, SETTINGS, as_applied, resource

NEWER = msgspec.structs.replace(SETTINGS, pod_image="ams-pod:2")
RUNNING = DeploymentStatus(replicas=1, updated_replicas=1, ready_replicas=1, available_replicas=1)


def running(spec: Any = None, status: DeploymentStatus = RUNNING, **changes: str | None) -> dict[str, Any]:
    """The children of a model that the older operator runs; `changes` of the Deployment's annotations."""
    given = spec or resource()
    applied = plan(Observed(given, report=HubReport()), SETTINGS, NOW).apply
    children = {body["kind"]: as_applied(body) for body in applied}
    deployment: Deployment = msgspec.structs.replace(children["Deployment"], status=status)
    notes = {**deployment.metadata.annotations, **{name: text for name, text in changes.items() if text is not None}}
    notes = {name: text for name, text in notes.items() if changes.get(name, "") is not None}
    metadata = msgspec.structs.replace(deployment.metadata, annotations=notes, owner_references=[OURS])
    children["Deployment"] = msgspec.structs.replace(deployment, metadata=metadata)
    return children


def decided(children: dict[str, Any], settings: Any = NEWER, spec: Any = None, **observed: Any) -> Any:
    return plan(Observed(spec or resource(), children, report=HubReport(), **observed), settings, NOW)


def deployment_of(decision: Any) -> dict[str, Any] | None:
    return next((body for body in decision.apply if body["kind"] == "Deployment"), None)


def test_a_running_model_waits_for_its_turn_and_nothing_is_written() -> None:
    waits = decided(running(), turns=("a/b", "a/c"))
    assert (waits.renewal, waits.apply, waits.pull) == ("waits", (), None)
    told = {each.type: each for each in waits.status.conditions}
    assert (told["Progressing"].status, told["Progressing"].reason) == ("False", "Outdated")
    assert told["Progressing"].message.endswith("when it is this model's turn. a/b, a/c before it.")
    told = {each.type: each for each in decided(running(), turns=None).status.conditions}
    assert told["Progressing"].message.endswith("They are renewed when the resource changes.")


def test_when_it_is_its_turn_it_gets_the_new_template() -> None:
    goes_on = decided(running(), has_turn=True)
    assert goes_on.renewal == "goes on"
    if goes_on.pull is None:  # else the image is pulled before
        body = deployment_of(goes_on)
        assert body is not None
        assert body["spec"]["template"]["spec"]["containers"][0]["image"] == "ams-pod:2"


def test_it_has_its_turn_until_its_pods_are_complete() -> None:
    newer = {body["kind"]: as_applied(body) for body in decided({}, has_turn=True).apply}
    for status, renewal in (
        (RUNNING, "none"),
        (DeploymentStatus(replicas=2, updated_replicas=1, available_replicas=1), "goes on"),
        (DeploymentStatus(replicas=1, updated_replicas=1, available_replicas=0), "goes on"),
    ):
        children = {**newer, "Deployment": msgspec.structs.replace(newer["Deployment"], status=status)}
        assert decided(children, has_turn=True).renewal == renewal
        assert decided(children, has_turn=False).renewal == "none", "somebody else's rollout"


def test_a_changed_resource_doesnt_wait() -> None:
    for changed in ({"precision": "float32"}, {"limits": {"maxNewTokens": 5}}, {"env": [{"name": "A", "value": "b"}]}):
        decision = decided(running(), spec=resource(**changed))
        body = deployment_of(decision)
        assert decision.renewal == "none"
        assert body is not None
        assert "template" in body["spec"]


@pytest.mark.parametrize(
    "changed", [{"model": {"aliases": ["x"]}}, {"autoscaling": {"maxReplicas": 1, "minReplicas": 1}}]
)
def test_what_says_nothing_about_pods_brings_no_turn_forward(changed: dict[str, Any]) -> None:
    assert decided(running(), spec=resource(**changed), replicas=1).renewal == "waits"


def test_scaling_goes_on_meanwhile_with_the_template_that_is_there() -> None:
    spec = resource(cache={"perReplica": True}, replicas=3)
    children = running(resource(cache={"perReplica": True}, replicas=2))
    scaled = decided(children, spec=spec)
    body = deployment_of(scaled)
    assert scaled.renewal == "waits"
    assert body is not None
    assert (body["spec"]["replicas"], "template" in body["spec"]) == (3, False)
    before = children["Deployment"].metadata.annotations
    notes = body["metadata"]["annotations"]
    assert notes[labels.TEMPLATE] == before[labels.TEMPLATE]
    assert notes[labels.APPLIED] != before[labels.APPLIED]
    after = as_applied({**body, "spec": {**body["spec"], "template": {}}})
    children["Deployment"] = msgspec.structs.replace(after, status=RUNNING)
    assert decided(children, spec=spec).apply == (), "once"


def test_a_model_at_zero_is_renewed_at_once() -> None:
    spec = resource(replicas=0)
    children = running(spec, DeploymentStatus())
    decision = decided(children, spec=spec)
    assert decision.renewal == "none"
    assert deployment_of(decision) is not None


def test_a_deployment_of_an_operator_that_noted_nothing_waits_too() -> None:
    children = running(**{labels.TEMPLATE: None, labels.SPEC: None})
    decision = decided(children)
    body = deployment_of(decision)
    assert decision.renewal == "waits"
    assert body is None or "template" not in body["spec"]
    assert deployment_of(decided(children, has_turn=True)) is not None


def test_idle_models_are_first_and_no_more_at_once_than_allowed() -> None:
    turns = Renewals(2)
    for at, key in enumerate("abcd"):
        assert turns.wait(key, at / 10) == pytest.approx(GATHER_SECONDS - at / 10)
    assert turns.choose({"a", "c"}, 1.0) == [], "others may still come"
    assert turns.choose({"a", "c"}, GATHER_SECONDS) == ["b", "d"]
    assert (turns.has_turn("b"), turns.has_turn("a"), len(turns), turns.renewed) == (True, False, 2, {"b", "d"})
    assert turns.wait("a", 9.0) is None, "it is woken when somebody's turn ends"
    assert turns.choose(set(), 9.0) == []
    assert turns.end("b") is True
    assert turns.choose({"a", "c"}, 9.0) == ["a"], "who has waited longest"
    assert turns.end("zzz") is False
    assert turns.end("d") is True
    assert turns.choose(set(), 9.0) == ["c"]
    assert (turns.end("a"), turns.end("c"), len(turns)) == (False, False, 0)


def test_who_waits_no_longer_gets_no_turn() -> None:
    turns = Renewals(1)
    turns.wait("a", 0.0)
    turns.wait("b", 0.0)
    assert turns.end("a") is False
    assert turns.choose(set(), 100.0) == ["b"]


def test_nobody_is_renewed_where_none_may_be() -> None:
    turns = Renewals(0)
    assert turns.wait("a", 0.0) is None
    assert turns.choose(set(), 100.0) == []
