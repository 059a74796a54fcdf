"""What is planned for what is observed: whole objects, and what is left alone."""

from typing import Any

import msgspec
import pytest
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import ModelDeployment
from ams_common.resource.status import LockStatus
from ams_common.source import parse_source
from ams_operator.children.volume import size_text, volume_bytes
from ams_operator.desired import desired
from ams_operator.hashes import source_digest
from ams_operator.k8s_events import event_name
from ams_operator.objects import Bare, Claim, Deployment, Metadata, OwnerReference, Pod
from ams_operator.observed import Event, Observed
from ams_operator.ownership import owner_of
from ams_operator.plan import plan, told_verdict
from ams_operator.preflight.answer import Answer
from ams_operator.settings import OperatorSettings
from ams_operator.status.pods import read_pod, termination_failure
from ams_operator.status.words import duration

SETTINGS = OperatorSettings(pod_image="ams-pod:1", gateway_url="http://gateway.ams.svc")
NOW = 1_767_225_600.0  # 2026-01-01
SOURCE = "wheel://weights==1.0/weights/model.gguf"


def resource(source: str = SOURCE, **spec: Any) -> ModelDeployment:
    document = {
        "apiVersion": "aimodelserver.io/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "tiny", "namespace": "models", "uid": "u-1", "generation": 1},
        "spec": {"model": {"source": source, **spec.pop("model", {})}, "cache": {"size": "1Gi"}, **spec},
    }
    return parse_model_deployment(document)


OWNER = {
    "apiVersion": "aimodelserver.io/v1alpha1",
    "kind": "ModelDeployment",
    "name": "tiny",
    "uid": "u-1",
    "controller": True,
    "blockOwnerDeletion": True,
}
LABELS = {
    "app.kubernetes.io/name": "ai-model",
    "app.kubernetes.io/managed-by": "ams-operator",
    "aimodelserver.io/model": "tiny",
}
META = {"name": "ams-tiny", "namespace": "models", "labels": LABELS, "ownerReferences": [OWNER]}
SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
MOUNTS = [{"name": "models", "mountPath": "/models"}, {"name": "tmp", "mountPath": "/tmp"}]
HOME = [{"name": "HOME", "value": "/tmp"}, {"name": "HF_HOME", "value": "/tmp/hf"}]


def without_hash(object: dict[str, Any]) -> dict[str, Any]:
    annotations = {
        key: value for key, value in object["metadata"]["annotations"].items() if key != "aimodelserver.io/applied"
    }
    metadata = {key: value for key, value in object["metadata"].items() if key != "annotations"}
    return {**object, "metadata": {**metadata, **({"annotations": annotations} if annotations else {})}}


def test_the_children_of_a_small_model() -> None:
    given = resource(
        model={"tokenSecretRef": {"name": "hub"}},
        resources={"limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}},
        nodeSelector={"pool": "gpu"},
        podLabels={"team": "search", "aimodelserver.io/model": "not-mine"},
        env=[{"name": "AMS_THREADS", "value": "2"}],
    )
    built = desired(
        given,
        parse_source(SOURCE),
        SETTINGS,
        replicas=1,
        strategy="Recreate",
        prefetch=False,
        volume_size=1 << 30,
        weights=None,
        lock=None,
    )
    assert list(built) == ["ServiceAccount", "Service", "PersistentVolumeClaim", "Deployment"]
    assert without_hash(built["ServiceAccount"]) == {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": META,
        "automountServiceAccountToken": False,
    }
    assert without_hash(built["Service"]) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": META,
        "spec": {
            "clusterIP": "None",
            "selector": {"aimodelserver.io/model": "tiny", "app.kubernetes.io/managed-by": "ams-operator"},
            "ports": [{"name": "http", "port": 8080, "targetPort": "http", "protocol": "TCP"}],
        },
    }
    assert without_hash(built["PersistentVolumeClaim"]) == {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": META,
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    deployment = without_hash(built["Deployment"])
    template = deployment["spec"].pop("template")
    assert deployment == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": META,
        "spec": {
            "replicas": 1,
            "selector": {
                "matchLabels": {"aimodelserver.io/model": "tiny", "app.kubernetes.io/managed-by": "ams-operator"}
            },
            "strategy": {"type": "Recreate"},
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 86400,
        },
    }
    annotations = template["metadata"].pop("annotations")
    assert list(annotations) == ["aimodelserver.io/weights"]
    assert template == {
        "metadata": {"labels": {"team": "search", **LABELS}},
        "spec": {
            "serviceAccountName": "ams-tiny",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 613,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "runAsGroup": 1000,
                "fsGroup": 1000,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "nodeSelector": {"pool": "gpu"},
            "initContainers": [
                {
                    "name": "download",
                    "image": "ams-pod:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["ams-pod", "download"],
                    "env": [
                        *HOME,
                        {"name": "AMS_SOURCE", "value": SOURCE},
                        {"name": "AMS_TERMINATION_LOG", "value": "/dev/termination-log"},
                        {
                            "name": "HF_TOKEN",
                            "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}},
                        },
                        {"name": "AMS_THREADS", "value": "2"},
                    ],
                    "volumeMounts": MOUNTS,
                    "securityContext": SECURITY,
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "ports": [{"name": "progress", "containerPort": 8081, "protocol": "TCP"}],
                    "resources": {"limits": {"memory": "4Gi"}},
                }
            ],
            "containers": [
                {
                    "name": "serve",
                    "image": "ams-pod:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["ams-pod", "serve"],
                    "env": [
                        *HOME,
                        {"name": "AMS_NAME", "value": "tiny"},
                        {"name": "AMS_SOURCE", "value": SOURCE},
                        {"name": "AMS_TEMP_DIR", "value": "/tmp"},
                        {"name": "AMS_GRACE_SECONDS", "value": "605.0"},
                        {"name": "AMS_TERMINATION_LOG", "value": "/dev/termination-log"},
                        {"name": "AMS_THREADS", "value": "2"},
                    ],
                    "volumeMounts": MOUNTS,
                    "securityContext": SECURITY,
                    "terminationMessagePath": "/dev/termination-log",
                    "terminationMessagePolicy": "FallbackToLogsOnError",
                    "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
                    "startupProbe": {
                        "httpGet": {"path": "/ready", "port": "http"},
                        "periodSeconds": 1,
                        "timeoutSeconds": 2,
                        "failureThreshold": 3600,
                    },
                    "readinessProbe": {
                        "httpGet": {"path": "/ready", "port": "http"},
                        "periodSeconds": 2,
                        "timeoutSeconds": 2,
                        "failureThreshold": 2,
                    },
                    "livenessProbe": {
                        "httpGet": {"path": "/health", "port": "http"},
                        "periodSeconds": 10,
                        "timeoutSeconds": 5,
                        "failureThreshold": 6,
                    },
                    "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
                    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "4Gi"}},
                }
            ],
            "volumes": [
                {"name": "models", "persistentVolumeClaim": {"claimName": "ams-tiny"}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def volumes_of(given: ModelDeployment) -> tuple[list[str], Any, list[dict[str, Any]]]:
    decided = plan(Observed(given), SETTINGS, NOW)
    objects = {each["kind"]: each for each in decided.apply}
    spec = objects["Deployment"]["spec"]["template"]["spec"]
    source = next(each["value"] for each in spec["containers"][0]["env"] if each["name"] == "AMS_SOURCE")
    return list(objects), source, spec["volumes"]


def test_weights_on_a_users_volume_are_mounted_to_be_read() -> None:
    kinds, source, volumes = volumes_of(resource("pvc://shared/llama/8b"))
    assert "PersistentVolumeClaim" not in kinds
    assert source == "file:///source/llama/8b"
    assert volumes == [
        {"name": "models", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
        {"name": "source", "persistentVolumeClaim": {"claimName": "shared", "readOnly": True}},
    ]


def test_a_gguf_file_on_a_users_volume_gets_a_cache_for_its_conversion() -> None:
    kinds, source, volumes = volumes_of(resource("pvc://shared/a?file=x.gguf"))
    assert "PersistentVolumeClaim" in kinds
    assert source == "file:///source/a?file=x.gguf"
    assert volumes[0] == {"name": "models", "persistentVolumeClaim": {"claimName": "ams-tiny"}}


def test_a_volume_for_each_pod_and_a_claim_of_the_user() -> None:
    kinds, _, volumes = volumes_of(resource(cache={"size": "3Gi", "perReplica": True}, replicas=2))
    assert "PersistentVolumeClaim" not in kinds
    template = volumes[0]["ephemeral"]["volumeClaimTemplate"]
    assert template["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "3Gi"}}}
    kinds, _, volumes = volumes_of(resource(cache={"claimName": "mine"}))
    assert "PersistentVolumeClaim" not in kinds
    assert volumes[0] == {"name": "models", "persistentVolumeClaim": {"claimName": "mine"}}


def child(kind: type[Any], *, owner: OwnerReference | None, **annotations: str) -> Any:
    owners = [owner] if owner is not None else []
    metadata = Metadata(
        name="ams-tiny", namespace="models", uid="c-1", owner_references=owners, annotations=annotations
    )
    return kind(metadata=metadata)


OURS = OwnerReference(uid="u-1", kind="ModelDeployment", name="tiny", controller=True)
OLD = OwnerReference(uid="u-0", kind="ModelDeployment", name="tiny", controller=True)
OTHER = OwnerReference(uid="x", kind="StatefulSet", name="db", controller=True)


def test_whose_an_object_is() -> None:
    given = resource()
    assert owner_of(child(Bare, owner=OURS), given) == "ours"
    assert owner_of(child(Bare, owner=OLD), given) == "predecessor's"
    assert owner_of(child(Bare, owner=OTHER), given) == "another's"
    assert owner_of(child(Bare, owner=None), given) == "another's"
    retained = {"aimodelserver.io/retained-by": "tiny"}
    assert owner_of(child(Claim, owner=None, **retained), given) == "ours"
    assert owner_of(child(Claim, owner=None, **{"aimodelserver.io/retained-by": "big"}), given) == "another's"


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PersistentVolumeClaim", "ServiceAccount"])
def test_nothing_at_all_is_done_while_a_name_is_taken(kind: str) -> None:
    types: dict[str, Any] = {"Deployment": Deployment, "PersistentVolumeClaim": Claim}
    stranger = child(types.get(kind, Bare), owner=OTHER)
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
    decided = plan(Observed(resource(), {"Service": child(Bare, owner=OLD)}), SETTINGS, NOW)
    assert decided.apply == ()
    assert decided.status.phase == "Pending"


def test_what_was_applied_is_not_applied_again() -> None:
    given = resource()
    first = plan(Observed(given), SETTINGS, NOW)
    present = {
        each["kind"]: msgspec.convert(
            {**each, "metadata": {**each["metadata"], "uid": "c"}},
            {"Deployment": Deployment, "PersistentVolumeClaim": Claim}.get(each["kind"], Bare),
        )
        for each in first.apply
    }
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
    assert settled.events == ()


def test_what_no_family_serves_stays_refused_while_its_status_is_all_that_is_known() -> None:
    given = resource("hf://acme/mamba")
    answer = Answer(revision="a" * 40, architectures=("MambaModel",))
    first = plan(Observed(given, answer=answer), SETTINGS, NOW)
    assert first.apply == ()
    told = msgspec.structs.replace(given, status=first.status)
    verdict = told_verdict(told)
    assert verdict is not None
    assert not verdict.passed, "so that the hub is asked again"
    again = plan(Observed(told, asking=True), SETTINGS, NOW + 1)
    assert again.apply == ()
    assert again.status == first.status
    assert plan(Observed(told, answer=answer), SETTINGS, NOW + 2).status == first.status
    served = plan(Observed(told, answer=Answer(architectures=("Qwen3ForCausalLM",))), SETTINGS, NOW + 3)
    assert served.apply != (), "a newer operator may serve it"


def test_sizes_of_volumes() -> None:
    hub = parse_source("hf://acme/tiny")
    auto = resource("hf://acme/tiny", cache={"size": "auto"})
    gibi = 1 << 30
    assert volume_bytes(auto, hub, 7 * gibi, None) == 9 * gibi
    assert volume_bytes(auto, hub, 7 * gibi, 20 * gibi) == 20 * gibi, "volumes don't shrink"
    assert volume_bytes(auto, hub, None, None) == 20 * gibi
    assert volume_bytes(auto, parse_source("hf://acme/tiny?file=a.gguf"), gibi, None) == 6 * gibi
    assert [size_text(size) for size in (gibi, 1536 << 20, 1000)] == ["1Gi", "1536Mi", "1000"]


def pod(message: str) -> Pod:
    document = {
        "metadata": {"name": "ams-tiny-1", "namespace": "models", "uid": "p"},
        "status": {
            "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
        },
    }
    return msgspec.convert(document, Pod)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        ("0/3 nodes are available: 1 node(s) had untolerated taint, 2 Insufficient nvidia.com/gpu.", "InsufficientGPU"),
        ("0/3 nodes are available: 3 Insufficient memory.", "Unschedulable"),
        ("0/3 nodes are available: 3 Insufficient amd.com/gpu.", "Unschedulable"),  # which this one doesn't ask for
        ("0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims.", "VolumePending"),
        ("0/3 nodes are available: 3 node(s) had volume node affinity conflict.", "VolumePending"),
        ('persistentvolumeclaim "x" not found', "VolumePending"),
    ],
)
def test_the_schedulers_words(message: str, reason: str) -> None:
    problem = read_pod(pod(message), None, ["nvidia.com/gpu"]).problem
    assert problem is not None
    assert problem.reason == reason
    assert message in problem.message


def test_the_line_by_which_a_container_explains_its_end() -> None:
    line = '{"reason":"DiskFull","message":"full","retryable":false}'
    found = termination_failure(f"some words\n{line}\n")
    assert found is not None
    assert (found.reason, found.message) == ("DiskFull", "full")
    assert termination_failure("{not json}\nwords") is None
    assert termination_failure("") is None


def test_golden_prompts_reach_the_pod_as_they_were_written() -> None:
    """The kubelet would take $(HOME) for a variable."""
    given = resource(rollout={"goldenPrompts": [{"prompt": "What is $(HOME)?", "regex": "^\\$4$"}]})
    (deployment,) = (each for each in plan(Observed(given), SETTINGS, NOW).apply if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (value,) = (each["value"] for each in container["env"] if each["name"] == "AMS_GOLDEN_PROMPTS")
    assert "$$(HOME)" in value
    told = msgspec.json.decode(value.replace("$$", "$"))
    assert told == [{"prompt": "What is $(HOME)?", "regex": "^\\$4$"}]


def test_the_lock_is_told_on_while_no_pod_is_there() -> None:
    given = resource()
    lock = LockStatus(files=3, sha256="ab" * 32)
    notes = {
        "aimodelserver.io/weights": source_digest(given),
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
    old = child(Claim, owner=OURS, **{"aimodelserver.io/weights": source_digest(pinned)})
    told = plan(Observed(pinned, {"PersistentVolumeClaim": old}), SETTINGS, NOW).status.lock
    assert told is not None
    assert told.files == 1, "of weights that an older version brought"


def test_durations_for_people() -> None:
    assert [duration(each) for each in (0, 45.4, 190, 7500)] == ["0s", "45s", "3m10s", "2h05m"]


def test_the_same_news_about_the_same_object_has_the_same_name() -> None:
    event = Event("Warning", "DiskFull", "WeightsReady: full")
    assert event_name(resource(), event) == event_name(resource(), event)
    assert event_name(resource(), event) != event_name(resource(), Event("Warning", "DiskFull", "WeightsReady: fuller"))


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
    done = {"terminated": {"exitCode": 0}}
    serving = msgspec.convert(
        {
            "metadata": {"name": "ams-tiny-0", "namespace": "models", "uid": "p-0"},
            "spec": {"nodeName": "n"},
            "status": {
                "phase": "Running",
                "initContainerStatuses": [{"name": "download", "ready": True, "state": done}],
                "containerStatuses": [{"name": "serve", "ready": True, "state": {"running": {}}}],
            },
        },
        Pod,
    )
    stuck = pod("0/1 nodes are available: 1 Insufficient memory.")
    for pods, strategy in (([serving], "RollingUpdate"), ([serving, stuck], "Recreate"), ([stuck], "RollingUpdate")):
        decided = plan(Observed(shared, pods=pods), SETTINGS, NOW)
        deployment = next(each for each in decided.apply if each["kind"] == "Deployment")
        assert deployment["spec"]["strategy"]["type"] == strategy, pods


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


def test_settings_of_the_operator_reach_the_pods() -> None:
    settings = msgspec.structs.replace(SETTINGS, hub_endpoint="http://mirror:8000")
    built = next(each for each in plan(Observed(resource()), settings, NOW).apply if each["kind"] == "Deployment")
    env = built["spec"]["template"]["spec"]["initContainers"][0]["env"]
    assert {"name": "HF_ENDPOINT", "value": "http://mirror:8000"} in env
