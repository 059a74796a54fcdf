"""The objects that a resource asks for, whole, field by field."""

from typing import Any

import msgspec
from ams_common.resource.spec import ModelDeployment
from ams_common.source import parse_source
from ams_operator.decide.children.pod import pod_security
from ams_operator.decide.children.volume import size_text, volume_bytes
from ams_operator.decide.desired import desired
from ams_operator.decide.observed import Observed
from ams_operator.decide.plan import plan
from plan_objects import NOW, SETTINGS, SOURCE, resource

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
        key: value
        for key, value in object["metadata"]["annotations"].items()
        if key not in ("aimodelserver.io/applied", "aimodelserver.io/template", "aimodelserver.io/spec")
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
                        {"name": "AMS_ANY_NAME", "value": "true"},
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


def test_sizes_of_volumes() -> None:
    hub = parse_source("hf://acme/tiny")
    auto = resource("hf://acme/tiny", cache={"size": "auto"})
    gibi = 1 << 30
    assert volume_bytes(auto, hub, 7 * gibi, None) == 9 * gibi
    assert volume_bytes(auto, hub, 7 * gibi, 20 * gibi) == 20 * gibi, "volumes don't shrink"
    assert volume_bytes(auto, hub, None, None) == 20 * gibi
    assert volume_bytes(auto, parse_source("hf://acme/tiny?file=a.gguf"), gibi, None) == 6 * gibi
    assert [size_text(size) for size in (gibi, 1536 << 20, 1000)] == ["1Gi", "1536Mi", "1000"]


def test_golden_prompts_reach_the_pod_as_they_were_written() -> None:
    """The kubelet would take $(HOME) for a variable."""
    given = resource(rollout={"goldenPrompts": [{"prompt": "What is $(HOME)?", "regex": "^\\$4$"}]})
    (deployment,) = (each for each in plan(Observed(given), SETTINGS, NOW).apply if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (value,) = (each["value"] for each in container["env"] if each["name"] == "AMS_GOLDEN_PROMPTS")
    assert "$$(HOME)" in value
    told = msgspec.json.decode(value.replace("$$", "$"))
    assert told == [{"prompt": "What is $(HOME)?", "regex": "^\\$4$"}]


def test_settings_of_the_operator_reach_the_pods() -> None:
    settings = msgspec.structs.replace(SETTINGS, hub_endpoint="http://mirror:8000")
    built = next(each for each in plan(Observed(resource()), settings, NOW).apply if each["kind"] == "Deployment")
    env = built["spec"]["template"]["spec"]["initContainers"][0]["env"]
    assert {"name": "HF_ENDPOINT", "value": "http://mirror:8000"} in env


def test_the_form_of_logs_is_told_to_pods_where_it_is_another() -> None:
    def told(**settings: Any) -> dict[str, list[str]]:
        chosen = msgspec.structs.replace(SETTINGS, **settings)
        (deployment,) = (each for each in plan(Observed(resource()), chosen, NOW).apply if each["kind"] == "Deployment")
        pod = deployment["spec"]["template"]["spec"]
        return {
            each["name"]: [variable["value"] for variable in each["env"] if variable["name"] == "AMS_LOG_FORMAT"]
            for each in (*pod["initContainers"], *pod["containers"])
        }

    assert told() == {"download": [], "serve": []}
    assert told(pod_log_format="json") == {"download": ["json"], "serve": ["json"]}


def test_users_may_be_the_clusters_choice() -> None:
    """As OpenShift's restricted-v2 asks for: it refuses pods that name their own."""
    free = msgspec.structs.replace(SETTINGS, run_as_user=0, run_as_group=0, fs_group=0)
    security = pod_security(free)
    assert not security.keys() & {"runAsUser", "runAsGroup", "fsGroup"}
    assert security["runAsNonRoot"] is True
    own = pod_security(msgspec.structs.replace(SETTINGS, run_as_user=7, fs_group=8))
    assert (own["runAsUser"], own["runAsGroup"], own["fsGroup"]) == (7, 1000, 8)
