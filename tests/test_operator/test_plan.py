"""What is planned for what is observed: what is applied, what is left alone, what is told."""

from typing import Any

import msgspec
import pytest
from ams_common.naming import NameClaim, give_names
from ams_common.resource.status import LockStatus
from ams_kube.objects import AppliedOnly, Claim, Deployment, Pod
from ams_operator.decide.children.common import source_digest
from ams_operator.decide.engine import BUILTIN
from ams_operator.decide.observed import Observed
from ams_operator.decide.ownership import owner_of
from ams_operator.decide.plan import plan
from ams_operator.decide.preflight.report import HubReport
from ams_operator.decide.preflight.verdict import reported_verdict
from plan_objects import NOW, OLD, OTHER, OURS, SETTINGS, SOURCE, as_applied, child, pod, resource


def test_whose_an_object_is() -> None:
    given = resource()
    assert owner_of(child(AppliedOnly, owner=OURS), given) == "ours"
    assert owner_of(child(AppliedOnly, owner=OLD), given) == "predecessor's"
    assert owner_of(child(AppliedOnly, owner=OTHER), given) == "another's"
    assert owner_of(child(AppliedOnly, owner=None), given) == "another's"
    retained = {"aimodelserver.io/retained-by": "tiny"}
    assert owner_of(child(Claim, owner=None, **retained), given) == "ours"
    assert owner_of(child(Claim, owner=None, **{"aimodelserver.io/retained-by": "big"}), given) == "another's"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PersistentVolumeClaim", "ServiceAccount"])
def test_nothing_at_all_is_done_while_a_name_is_taken(kind: str) -> None:
    types: dict[str, Any] = {"Deployment": Deployment, "PersistentVolumeClaim": Claim}
    stranger = child(types.get(kind, AppliedOnly), owner=OTHER)
    decided = plan(Observed(resource(), {kind: stranger}), SETTINGS, NOW)
    assert (decided.apply, decided.remove) == ((), ())
    accepted = next(each for each in decided.status.conditions or () if each.type == "Accepted")
    assert (accepted.status, accepted.reason) == ("False", "NameTaken")
    assert accepted.message == (
        f"The {kind} ams-tiny belongs to StatefulSet db and is left alone; delete or rename it, or give this resource"
        " another name."
    )
    assert decided.requeue_after is not None


def test_the_children_of_a_predecessor_are_waited_for() -> None:
    decided = plan(Observed(resource(), {"Service": child(AppliedOnly, owner=OLD)}), SETTINGS, NOW)
    assert decided.apply == ()
    assert decided.status.phase == "Pending"


def test_what_was_applied_is_not_applied_again() -> None:
    given = resource()
    first = plan(Observed(given), SETTINGS, NOW)
    present = {each["kind"]: as_applied(each) for each in first.apply}
    assert [each["kind"] for each in first.apply] == [
        "ServiceAccount",
        "Service",
        "PersistentVolumeClaim",
        "Deployment",
    ]
    again = plan(Observed(given, present), SETTINGS, NOW + 1000)
    assert again.apply == ()
    told = msgspec.structs.replace(given, status=again.status)
    settled = plan(Observed(told, present), SETTINGS, NOW + 2000)
    assert settled.status == again.status, "not even times change"
    assert settled.transitions == ()


def test_what_no_family_serves_stays_refused_while_its_status_is_all_that_is_known() -> None:
    given = resource("hf://acme/mamba")
    report = HubReport(revision="a" * 40, architectures=("MambaModel",))
    first = plan(Observed(given, report=report), SETTINGS, NOW)
    assert first.apply == ()
    told = msgspec.structs.replace(given, status=first.status)
    verdict = reported_verdict(told)
    assert verdict is not None
    assert not verdict.passed, "so that the hub is asked again"
    again = plan(Observed(told, preflight_pending=True), SETTINGS, NOW + 1)
    assert again.apply == ()
    assert again.status == first.status
    assert plan(Observed(told, report=report), SETTINGS, NOW + 2).status == first.status
    served = plan(Observed(told, report=HubReport(architectures=("Qwen3ForCausalLM",))), SETTINGS, NOW + 3)
    assert served.apply != (), "a newer operator may serve it"


def test_the_endpoint_is_the_name_that_gateways_know() -> None:
    endpoints = [
        plan(Observed(resource()), msgspec.structs.replace(SETTINGS, confine_names=confined), NOW).status.endpoint
        for confined in (False, True)
    ]
    assert endpoints == [
        "http://gateway.ams.svc/generate/tiny",
        "http://gateway.ams.svc/generate/models.tiny",
    ]


def test_a_name_that_another_model_has_is_told_with_the_endpoint_that_is_its_own() -> None:
    claims = [
        NameClaim("ams/tiny", "2026-01-01T00:00:00Z", ("gpt",)),
        NameClaim("models/tiny", "2026-02-01T00:00:00Z", ("gpt", "mine")),
    ]
    names = give_names(claims).given["models/tiny"]
    decided = plan(Observed(resource(model={"aliases": ["gpt", "mine"]}), names=names), SETTINGS, NOW)
    assert decided.status.endpoint == "http://gateway.ams.svc/generate/models.tiny"
    accepted = next(each for each in decided.status.conditions or () if each.type == "Accepted")
    assert (accepted.status, accepted.reason) == ("True", "NamesTaken")
    assert accepted.message == (
        "The resource is valid, but it doesn't have all of its names: tiny is ams/tiny's, gpt is ams/tiny's. It is"
        " called models.tiny."
    )
    assert ("Warning", "NamesTaken") in [(each.type, each.reason) for each in decided.transitions]
    alone = plan(Observed(resource(model={"aliases": ["gpt"]})), SETTINGS, NOW)
    assert next(each for each in alone.status.conditions or () if each.type == "Accepted").reason == "Valid"


def test_replicas_that_autoscaling_ignores_are_told() -> None:
    """As `kubectl scale` sets them, which says that it scaled."""
    given = resource(replicas=3, autoscaling={"minReplicas": 0, "maxReplicas": 1})
    decided = plan(Observed(given), SETTINGS, NOW)
    assert [(each.type, each.reason) for each in decided.transitions] == [("Warning", "ReplicasIgnored")]
    assert "spec.replicas: 3 has no effect" in decided.transitions[0].message


def test_aliases_do_not_concern_pods() -> None:
    plans = [plan(Observed(resource(model={"aliases": aliases})), SETTINGS, NOW) for aliases in ([], ["gpt"])]
    before, after = (next(each for each in made.apply if each["kind"] == "Deployment") for made in plans)
    assert before == after


def test_the_lock_is_told_on_while_no_pod_is_there() -> None:
    given = resource()
    lock = LockStatus(files=3, sha256="ab" * 32)
    notes = {
        "aimodelserver.io/weights": source_digest(given, BUILTIN),
        "aimodelserver.io/lock": msgspec.json.encode(lock).decode(),
    }
    claim = child(Claim, owner=OURS, **notes)
    decided = plan(Observed(given, {"PersistentVolumeClaim": claim}), SETTINGS, NOW)
    assert decided.status.lock == lock
    (applied,) = (each for each in decided.apply if each["kind"] == "PersistentVolumeClaim")
    assert notes.items() <= applied["metadata"]["annotations"].items(), "what was noted stays"
    other = resource(SOURCE + "2")
    assert plan(Observed(other, {"PersistentVolumeClaim": claim}), SETTINGS, NOW).status.lock is None
    pinned = resource(model={"lock": {"a.safetensors": "cd" * 32}})
    old = child(Claim, owner=OURS, **{"aimodelserver.io/weights": source_digest(pinned, BUILTIN)})
    told = plan(Observed(pinned, {"PersistentVolumeClaim": old}), SETTINGS, NOW).status.lock
    assert told is not None
    assert told.files == 1, "of weights that an older version brought"


def test_a_rollout_starts_the_new_pod_first_where_the_cache_allows_it() -> None:
    shared = resource(cache={"size": "1Gi", "accessMode": "ReadWriteMany"})
    for given, strategy in ((resource(), "Recreate"), (shared, "RollingUpdate")):
        deployment = next(each for each in plan(Observed(given), SETTINGS, NOW).apply if each["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["type"] == strategy
    asked = resource(rollout={"strategy": "Surge"})
    deployment = next(each for each in plan(Observed(asked), SETTINGS, NOW).apply if each["kind"] == "Deployment")
    assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"


def test_a_rollout_replaces_the_old_pod_where_no_node_takes_one_beside_it() -> None:
    shared = resource(cache={"size": "1Gi", "accessMode": "ReadWriteMany"})
    serving = _serving()
    stuck = pod("0/1 nodes are available: 1 Insufficient memory.")
    for pods, strategy in (([serving], "RollingUpdate"), ([serving, stuck], "Recreate"), ([stuck], "RollingUpdate")):
        decided = plan(Observed(shared, pods=pods), SETTINGS, NOW)
        deployment = next(each for each in decided.apply if each["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["type"] == strategy, pods


@pytest.mark.parametrize("words", ["waiting for ephemeral volume controller to create the persistentvolumeclaim", "x"])
def test_that_no_node_takes_a_pod_is_news_after_a_while(words: str) -> None:
    """A volume is being made, or the pod before still holds the GPU: else each start would have a warning."""
    given = pod(f"0/1 nodes are available: {words}.")
    scheduled = msgspec.structs.replace(given.status.conditions[0], last_transition_time="2026-01-01T00:00:00Z")
    given = msgspec.structs.replace(given, status=msgspec.structs.replace(given.status, conditions=[scheduled]))
    deployment = child(Deployment, owner=OURS)
    early = plan(Observed(resource(), {"Deployment": deployment}, [given], moved_at=NOW), SETTINGS, NOW + 4)
    assert early.transitions == ()
    assert early.deadline_in == 6
    late = plan(Observed(resource(), {"Deployment": deployment}, [given], moved_at=NOW), SETTINGS, NOW + 10)
    assert [each.type for each in late.transitions] == ["Warning"]


def test_a_volume_that_is_not_there_yet_does_not_end_the_old_pod() -> None:
    shared = resource(cache={"size": "1Gi", "perReplica": True})
    waiting = pod(
        '0/1 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "x".'
    )
    for pods in ([_serving()], [_serving(), waiting]):
        decided = plan(Observed(shared, pods=pods), SETTINGS, NOW)
        deployment = next(each for each in decided.apply if each["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["type"] == "RollingUpdate"


def _serving() -> Pod:
    done = {"terminated": {"exitCode": 0}}
    document = {
        "metadata": {"name": "ams-tiny-0", "namespace": "models", "uid": "p-0"},
        "spec": {"nodeName": "n"},
        "status": {
            "phase": "Running",
            "initContainerStatuses": [{"name": "download", "ready": True, "state": done}],
            "containerStatuses": [{"name": "serve", "ready": True, "state": {"running": {}}}],
        },
    }
    return msgspec.convert(document, Pod)


def test_a_rollout_that_takes_too_long_is_told() -> None:
    document = {
        "metadata": {"name": "ams-tiny", "namespace": "models", "uid": "c", "generation": 1},
        "status": {
            "conditions": [
                {
                    "type": "Progressing",
                    "status": "False",
                    "reason": "ProgressDeadlineExceeded",
                    "message": 'ReplicaSet "ams-tiny-1" has timed out progressing.',
                }
            ]
        },
    }
    present = msgspec.structs.replace(
        msgspec.convert(document, Deployment), metadata=child(Deployment, owner=OURS).metadata
    )
    told = plan(Observed(resource(), {"Deployment": present}), SETTINGS, NOW).status.conditions
    assert told is not None
    (progressing,) = (each for each in told if each.type == "Progressing")
    assert (progressing.status, progressing.reason) == ("False", "DeadlineExceeded")
    assert "timed out progressing" in progressing.message
