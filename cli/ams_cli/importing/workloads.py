"""Workloads of Kubernetes whose container runs a known server: Deployment, StatefulSet, ReplicaSet, Pod, and the leader
of a LeaderWorkerSet.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ams_cli.importing import kubernetes, scaling
from ams_cli.importing.containers import Surroundings, serve
from ams_cli.importing.pod_variables import tell_source, variables_of
from ams_cli.importing.pod_volumes import mounts_of
from ams_cli.importing.pod_volumes import tell as tell_mounts
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.scaling import Scalers
from ams_cli.importing.server_variables import known_values
from ams_cli.importing.servers import Server, server_of
from ams_cli.importing.unserved import refuse

GROUPS = {
    "Deployment": "apps", "StatefulSet": "apps", "ReplicaSet": "apps", "Pod": "",
    "LeaderWorkerSet": "leaderworkerset.x-k8s.io",
}  # fmt: skip
"""API groups by kind."""
_NOT_NEEDED = (
    "name", "ports", "readinessProbe", "livenessProbe", "startupProbe", "terminationMessagePath",
    "terminationMessagePolicy", "tty", "stdin", "workingDir",
)  # fmt: skip
_OF_PODS = (
    "restartPolicy", "enableServiceLinks", "automountServiceAccountToken", "hostname", "subdomain", "serviceAccount",
)  # fmt: skip
_DEFAULTS = {"schedulerName": "default-scheduler", "dnsPolicy": "ClusterFirst"}
_OF_WORKLOADS = (
    "selector", "revisionHistoryLimit", "progressDeadlineSeconds", "minReadySeconds", "serviceName",
    "podManagementPolicy", "updateStrategy", "persistentVolumeClaimRetentionPolicy",
    "rolloutStrategy", "startupPolicy", "networkConfig",
)  # fmt: skip
_AIBRIX = "aibrix.ai/"
_AIBRIX_NAME = "model.aibrix.ai/name"
_SCRAPED = ("prometheus.io/", "sidecar.istio.io/", "cluster-autoscaler.kubernetes.io/", "kubectl.kubernetes.io/")
_OF_OUR_SHAPE = (
    "app",
    "component",
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/component",
)
_GPUS = ("nvidia.com/", "amd.com/")
_ROLE = "llm-d.ai/role"
_POLICIES = ("Always", "IfNotPresent", "Never")


@dataclass(frozen=True, slots=True)
class Around:
    """What else is among the files: what scales workloads, and values of ConfigMaps by their name."""

    scalers: Scalers
    configs: Mapping[str, Mapping[str, str]]


def is_workload(document: Any) -> bool:
    kind = document.get("kind") if isinstance(document, dict) else None
    group, slash, _ = str(document.get("apiVersion", "")).partition("/") if isinstance(kind, str) else ("", "", "")
    return isinstance(kind, str) and kind in GROUPS and (group if slash else "") == GROUPS[kind]


def translate(document: Section, kind: str, around: Around) -> Draft | None:
    """A draft; None if no container runs a known server. NotImported says why a model can't be served."""
    pod, spec, metadata = _pod(document, kind)
    configs = around.configs
    chosen: tuple[Section, Server, list[Any]] | None = None
    others: list[Section] = []
    for container in pod.sections("containers"):
        variables = variables_of(container, configs)
        server = None
        if chosen is None:
            server = server_of(
                container.text("image"), container.texts("command"), container.texts("args"), known_values(variables)
            )
        if server is None:
            others.append(container)
        else:
            chosen = container, server, variables
    if chosen is None:
        return None
    container, server, variables = chosen
    refuse(server, variables, _more(container, pod))
    if "prefill" in (metadata.mapping("labels").get(_ROLE), document.section("metadata").mapping("labels").get(_ROLE)):
        raise NotImported(f"{_ROLE}: prefill: prompts are read by the pods that answer: count these replicas in there")
    draft = kubernetes.start(document, kind, _AIBRIX)
    _model(draft, kind, pod, spec, container, server, variables, configs)
    for other in others:
        draft.lose(f"{other.path} ({other.text('name')})", "a container beside the model has no place")
    _labels(draft, metadata, spec)
    replicas = None if kind == "Pod" else spec.number("replicas")
    scaling.apply(draft, kind, draft.name, replicas, around.scalers)
    draft.lose_all(container.left())
    draft.lose_all(document.left())
    return draft


def images(document: Section, kind: str) -> list[str]:
    """The images of a workload's containers."""
    return [container.text("image") for container in _pod(document, kind)[0].sections("containers")]


def _pod(document: Section, kind: str) -> tuple[Section, Section, Section]:
    """The pod's spec, the workload's, and the pod's metadata."""
    spec = document.section("spec")
    if kind == "Pod":
        return spec, spec, document.section("metadata")
    if kind == "LeaderWorkerSet":
        group = spec.section("leaderWorkerTemplate")
        template = group.section("leaderTemplate" if "leaderTemplate" in group else "workerTemplate")
    else:
        template = spec.section("template")
    return template.section("spec"), spec, template.section("metadata")


def _model(
    draft: Draft,
    kind: str,
    pod: Section,
    spec: Section,
    container: Section,
    server: Server,
    variables: list[Any],
    configs: Mapping[str, Any],
) -> None:
    resources = container.section("resources")
    limits, requests = resources.mapping("limits"), resources.mapping("requests")
    limits = {**{name: each for name, each in requests.items() if str(name).endswith("/gpu")}, **limits}
    draft.set("resources.limits", limits)
    draft.set("resources.requests", requests)
    draft.set("resources.claims", resources.items("claims"))
    nodes = _nodes(draft, spec) if kind == "LeaderWorkerSet" else 1
    mounts = list(mounts_of(draft.name, pod, spec, container))
    image = container.text("image")
    gpus = kubernetes.gpus_of(limits)
    serve(draft, server, Surroundings(container.at("args"), variables, mounts, gpus, nodes, image))
    _accelerators(draft, container, limits, image)
    tell_mounts(draft, mounts, container)
    if (policy := container.text("imagePullPolicy")) in _POLICIES:
        draft.set("imagePullPolicy", policy)
    kubernetes.pass_on(draft, pod)
    if account := pod.text("serviceAccount"):
        draft.set("serviceAccountName", draft.get("serviceAccountName") or account)
    container.ignore(*_NOT_NEEDED)
    pod.ignore(*_OF_PODS, "volumes")
    for field, usual in _DEFAULTS.items():
        if (text := pod.text(field)) not in ("", usual):
            draft.lose(f"{pod.at(field)} ({text})")
    if (seconds := pod.number("terminationGracePeriodSeconds")) is not None:
        draft.say(pod.at("terminationGracePeriodSeconds"), f"not needed ({seconds}): a pod ends once its requests do")
    spec.ignore(*(_OF_WORKLOADS if kind != "Pod" else ()), "volumeClaimTemplates")
    for section, name in ((pod, "securityContext"), (container, "securityContext")):
        if section.mapping(name):
            draft.lose(section.at(name), "pods have no privileges and no root here")
    for source in container.items("envFrom"):
        tell_source(draft, container, source, configs)
    if "lifecycle" in container:
        container.ignore("lifecycle")
        draft.lose(container.at("lifecycle"), "requests are answered before a pod ends; nothing else runs in it")
    for first in pod.sections("initContainers"):
        draft.lose(
            f"{first.path} ({first.text('name')})", "nothing runs before the model; weights are downloaded by its pod"
        )
    strategy = spec.section("strategy")
    if strategy.text("type") == "Recreate":
        draft.set("rollout.strategy", "Recreate")
    elif "rollingUpdate" in strategy:
        draft.say(
            strategy.at("rollingUpdate"),
            "not needed: new pods serve before old ones go, where GPUs and volumes allow it",
        )
    strategy.ignore("rollingUpdate")
    if isinstance(affinity := draft.get("affinity"), dict) and {"podAffinity", "podAntiAffinity"} & affinity.keys():
        draft.say("affinity", "the labels that it looks for must be on the pods: podLabels")


def _accelerators(draft: Draft, container: Section, limits: Mapping[str, Any], image: str) -> None:
    at = container.at("resources")
    others = [str(name) for name in limits if "/" in str(name) and not str(name).startswith(_GPUS)]
    if others:
        draft.lose(
            f"{at} ({', '.join(others)})",
            "GPUs of NVIDIA and AMD are known here: what computes on it must be in the image",
        )
    elif draft.get("engine.name") not in ("vllm", "sglang") or "cpu" in image.lower():
        return
    elif not any("/" in str(name) for name in limits) and not container.section("resources").items("claims"):
        draft.lose(at, "no GPU is asked for: without nvidia.com/gpu in resources.limits there is none")


def _nodes(draft: Draft, spec: Section) -> int:
    group = spec.section("leaderWorkerTemplate")
    size = group.number("size")
    size = 1 if size is None else size
    if size > 1:
        draft.set("engine.nodes", size)
        draft.set("cache.perReplica", True)
        draft.say(
            group.at("workerTemplate"),
            "not needed: all nodes of a replica run the same; docs/operations/large-models.md",
        )
    group.ignore("workerTemplate", "restartPolicy", "subGroupPolicy")
    return max(size, 1)


def _labels(draft: Draft, metadata: Section, spec: Section) -> None:
    """Labels and annotations of pods, but for those that Services of before choose pods by."""
    labels, annotations = metadata.mapping("labels"), metadata.mapping("annotations")
    metadata.ignore("name", "creationTimestamp", "namespace")
    selected = spec.section("selector").mapping("matchLabels") if "selector" in spec else {}
    own = draft.metadata.get("labels", {})
    for each in (str(own.get(_AIBRIX_NAME, "")), str(labels.get(_AIBRIX_NAME, ""))):
        if each:
            draft.aliases.append(each)
    kept = {key: each for key, each in own.items() if _AIBRIX not in key}
    if kept != own:
        draft.say("metadata.labels", f"not needed: labels of {_AIBRIX.rstrip('/')}")
        draft.metadata["labels"] = kept
        if not kept:
            del draft.metadata["labels"]
    rest = {
        str(key): str(each)
        for key, each in labels.items()
        if key not in selected and key not in _OF_OUR_SHAPE and _AIBRIX not in str(key) and own.get(key) != each
    }
    draft.set("podLabels", rest)
    if any(str(key).startswith("prometheus.io/") for key in annotations):
        draft.say(
            metadata.at("annotations"), "not needed: prometheus.io/...; metrics are scraped by docs/monitoring.md"
        )
    draft.set(
        "podAnnotations",
        {str(key): str(each) for key, each in annotations.items() if not str(key).startswith(_SCRAPED)},
    )


def _more(container: Section, pod: Section) -> str:
    """Texts that may name a model of Ollama: what runs after the start, or before."""
    return " ".join(
        word for value in (container.mapping("lifecycle"), pod.items("initContainers")) for word in _texts(value)
    )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, str):
        yield value
