"""Values of llm-d's chart of a model, llm-d-modelservice: `modelArtifacts`, and how the pods that decode run.

Fields as in charts/llm-d-modelservice/values.yaml, their arguments as in its templates.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from ams_cli.importing import kubernetes, scaling
from ams_cli.importing.containers import Surroundings, serve
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.server_variables import known_values
from ams_cli.importing.servers import Server, engine_of_image, server_of
from ams_cli.importing.volumes import Mount

_NAME = re.compile(r"[\"']?\{\{-?\s*\.Values\.modelArtifacts\.name\s*-?\}\}[\"']?")
_ACCELERATORS = {
    "nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu", "intel-i915": "gpu.intel.com/i915",
    "intel-xe": "gpu.intel.com/xe",
    "intel-gaudi": "habana.ai/gaudi", "google": "google.com/tpu", "rebellions-atom": "rebellions.ai/ATOM",
}  # fmt: skip
_HUB_KEY = "HF_TOKEN"
_MOUNT_PATH = "/model-cache"
_OF_CONTAINERS = (
    "name", "ports", "readinessProbe", "livenessProbe", "startupProbe", "imagePullPolicy", "modelCommand",
    "mountModelVolume", "workingDir", "stdin", "tty", "volumeMounts",
)  # fmt: skip
_OF_PODS = (
    "create", "monitoring", "volumes", "enableServiceLinks", "terminationGracePeriodSeconds", "schedulerName",
    "strategy", "subGroupPolicy", "subGroupExclusiveToplogy",
)  # fmt: skip
_OF_THE_CHART = ("common", "enabled", "multinode", "schedulerName", "serviceAccountOverride")


def is_values(document: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(document, dict) and document.get("kind") is None and isinstance(document.get("modelArtifacts"), dict)
    )


def translate(document: Section) -> Draft:
    """A draft; NotImported says why a model can't be served."""
    artifacts, routing, pod = (
        document.section("modelArtifacts"),
        document.section("routing"),
        document.section("decode"),
    )
    name = artifacts.text("name")
    draft = Draft(f"llm-d model {name}", document.text("fullnameOverride") or name)
    source, path = _source(draft, artifacts, name)
    container = _container(draft, pod)
    parallelism = pod.section("parallelism")
    tensor, copies = (
        parallelism.number("tensor") or 1,
        parallelism.number("data") or parallelism.number("dataLocal") or 1,
    )
    nodes = parallelism.number("workers") or 1
    limits = _resources(draft, document, pod, container, tensor)
    if copies > 1:
        draft.lose(
            f"{parallelism.at('data')} ({copies})", "each replica has one copy of the weights here: set replicas"
        )
        nodes = 1
    if nodes > 1:
        draft.set("engine.nodes", nodes)
        draft.set("cache.perReplica", True)
    parallelism.ignore("dataLocal", "workers")
    variables = container.items("env")
    words = ["--model", path, "--served-model-name", name, "--tensor-parallel-size", str(tensor)]
    server = _server(container, words, variables)
    mounts = [Mount(artifacts.text("mountPath") or _MOUNT_PATH, *_place(source))]
    image = container.text("image")
    serve(
        draft, server, Surroundings(container.at("args"), variables, mounts, kubernetes.gpus_of(limits), nodes, image)
    )
    draft.set("model.source", source)
    if secret := artifacts.text("authSecretName"):
        draft.set("model.tokenSecretRef", {"name": secret, "key": _HUB_KEY})
    if other := routing.text("modelName"):
        draft.aliases.append(other)
    _pod(draft, pod, document)
    replicas = pod.number("replicas")
    scaling.set_replicas(draft, 1 if replicas is None else replicas)
    _around(draft, document, artifacts, routing)
    if (policy := container.text("imagePullPolicy")) in ("Always", "IfNotPresent", "Never"):
        draft.set("imagePullPolicy", policy)
    container.ignore(*_OF_CONTAINERS)
    draft.lose_all(container.left())
    draft.lose_all(document.left())
    return draft


def _source(draft: Draft, artifacts: Section, name: str) -> tuple[str, str]:
    """The source, and the model as the chart names it in vLLM's arguments."""
    uri = _NAME.sub(lambda _: name, artifacts.text("uri"))
    scheme, _, rest = uri.partition("://")
    if not name:
        raise NotImported(f"{artifacts.at('name')}: missing")
    if scheme == "hf" and rest:
        return f"hf://{rest}", rest
    if scheme == "pvc" and rest:
        return f"pvc://{rest}", f"{artifacts.text('mountPath') or _MOUNT_PATH}/{rest.partition('/')[2]}".rstrip("/")
    if scheme == "pvc+hf" and rest.count("/") >= 2:
        claim, *_, owner, model = rest.split("/")
        draft.say(artifacts.at("uri"), f"the hub's cache on the claim {claim} isn't read: weights are downloaded again")
        return f"hf://{owner}/{model}", f"{owner}/{model}"
    raise NotImported(
        f"{artifacts.at('uri')} ({uri or 'missing'}): not a source; known are hf://owner/name and pvc://claim/path"
    )


def _place(source: str) -> tuple[Any, str]:
    claim = source.removeprefix("pvc://").partition("/")[0]
    return ("claim", claim) if source.startswith("pvc://") else ("scratch", "a folder of the pod")


def _container(draft: Draft, pod: Section) -> Section:
    """The first container is the model's."""
    found = pod.sections("containers")
    if not found:
        raise NotImported(f"{pod.at('containers')}: missing")
    for other in found[1:]:
        draft.lose(f"{other.path} ({other.text('name')})", "a container beside the model has no place")
    return found[0]


def _server(container: Section, words: list[str], variables: list[Any]) -> Server:
    image = container.text("image")
    if "inference-sim" in image:
        raise NotImported(f"{container.at('image')} ({image}): a simulator, which has no weights")
    command, args = container.texts("command"), container.texts("args")
    if container.text("modelCommand") in ("vllmServe", "imageDefault"):
        return Server(engine_of_image(image) or "vllm", (*words, *args))
    server = server_of(image, command, args, known_values(variables))
    if server is None:
        raise NotImported(f"{container.at('command')}: starts no server that is known")
    return server


def _resources(draft: Draft, document: Section, pod: Section, container: Section, tensor: int) -> dict[str, Any]:
    resources, all_pods = container.section("resources"), document.section("accelerator")
    limits, requests = dict(resources.mapping("limits")), dict(resources.mapping("requests"))
    own = pod.section("accelerator")
    kind = own.text("type") or all_pods.text("type") or "nvidia"
    named = {**_ACCELERATORS, **all_pods.mapping("resources")}
    dynamic = own.text("dra") == "true" or all_pods.text("dra") == "true"
    resource = str(named.get(kind, ""))
    if dynamic:
        draft.lose(all_pods.at("dra"), "claims of devices aren't made here: name a ResourceClaim in resources.claims")
    elif resource and not any(str(name) == resource for name in limits):
        limits[resource] = tensor
    requests = {name: each for name, each in requests.items() if str(name) != resource}
    all_pods.ignore("env", "resourceClaimTemplates")
    draft.set("resources.limits", limits)
    draft.set("resources.requests", requests)
    if resource and kind not in ("nvidia", "amd"):
        draft.lose(
            f"{all_pods.at('type')} ({kind})",
            "GPUs of NVIDIA and AMD are known here: the image must have what computes on it",
        )
    return limits


def _pod(draft: Draft, pod: Section, document: Section) -> None:
    for section in (pod, pod.section("extraConfig")):
        kubernetes.pass_on(draft, section)
    if draft.get("priorityClassName") == "none":
        del draft.spec["priorityClassName"]
    if (account := document.text("serviceAccountOverride")) and not draft.get("serviceAccountName"):
        draft.set("serviceAccountName", account)
    types = pod.section("acceleratorTypes")
    key, values = types.text("labelKey"), types.texts("labelValues")
    if key and values:
        term = {"matchExpressions": [{"key": key, "operator": "In", "values": values}]}
        draft.set("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", {"nodeSelectorTerms": [term]})
    for mount in pod.sections("initContainers"):
        draft.lose(
            f"{mount.path} ({mount.text('name')})", "nothing runs before the model; weights are downloaded by its pod"
        )
    if pod.section("autoscaling").flag("enabled"):
        draft.lose(pod.at("autoscaling"), "set autoscaling: replicas follow the requests in flight")
    if pod.items("resourceClaims"):
        draft.lose(pod.at("resourceClaims"), "name a ResourceClaim in resources.claims")
    pod.ignore(*_OF_PODS, "autoscaling")


def _around(draft: Draft, document: Section, artifacts: Section, routing: Section) -> None:
    prefill = document.section("prefill")
    if prefill.text("create") != "false" and (prefill.number("replicas") or 0) > 0:
        draft.lose(prefill.path, "prompts are read by the pods that answer: count their replicas in")
    if document.section("requester").text("enable") == "true":
        draft.lose(document.at("requester"), "pods are made by the operator alone")
    document.ignore("prefill", *_OF_THE_CHART)
    document.section("requester").ignore(*document.section("requester").names())
    prefill.ignore(*prefill.names())
    routing.ignore("servicePort")
    if "proxy" in routing:
        routing.ignore("proxy")
        draft.say(routing.at("proxy"), "not needed: the gateway routes, and chooses replicas by load and prompt")
    artifacts.ignore("size", "readOnly", "imagePullPolicy")
    if artifacts.mapping("labels"):
        draft.say(artifacts.at("labels"), "not needed: the gateway finds its pods by itself")
    for name, text in (
        ("extraObjects", "they stay as they are"),
        ("tracing", "traces are set for the installation: docs/tracing.md"),
    ):
        inner: Any = document.any(name)
        if (isinstance(inner, Mapping) and not inner.get("enabled")) or not inner:
            continue
        draft.lose(name, text)
