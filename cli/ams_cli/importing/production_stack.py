"""Values of vLLM's production stack, a chart of Helm: `servingEngineSpec.modelSpec`, a model each.

Fields as in helm/values.yaml, their arguments as in helm/templates/deployment-vllm-multi.yaml.
"""

import json
from collections.abc import Iterator
from typing import Any, TypeGuard

from ams_cli.importing import kubernetes, scaling
from ams_cli.importing.containers import Surroundings, serve
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, ForeignError, Note, NotImported, Outcome, Refused
from ams_cli.importing.servers import Server

_NUMBERS = (
    ("maxModelLen", "--max-model-len"), ("dtype", "--dtype"), ("tensorParallelSize", "--tensor-parallel-size"),
    ("maxNumSeqs", "--max-num-seqs"), ("gpuMemoryUtilization", "--gpu-memory-utilization"), ("maxLoras", "--max-loras"),
    ("runner", "--runner"), ("convert", "--convert"),
)  # fmt: skip
_OF_SHARES = (
    ("GPUMem", "nvidia.com/gpumem"), ("GPUMemPercentage", "nvidia.com/gpumem-percentage"),
    ("GPUCores", "nvidia.com/gpucores"),
)  # fmt: skip
_NOT_NEEDED = ("enabled", "shmSize", "serviceAnnotations", "pvcLabels", "pvcAnnotations", "enableTool", "pdb")
_OF_THE_STACK = (
    "enableEngine", "containerPort", "servicePort", "extraPorts", "startupProbe", "livenessProbe", "readinessProbe",
    "imagePullPolicy", "labels", "strategy", "maxUnavailablePodDisruptionBudget", "serviceMonitor", "sidecar",
)  # fmt: skip
_ABOUT_FILE = {
    "routerSpec": "not needed: the gateway routes, and chooses replicas by load and prompt",
    "loraController": "name adapters in spec.adapters, and ask for them as MODEL:NAME",
    "loraAdapters": "name adapters in spec.adapters, and ask for them as MODEL:NAME",
    "cacheserverSpec": "keys and values are kept in each pod; no server has them for all",
    "sharedPvcStorage": "for a volume that all replicas share set cache.accessMode: ReadWriteMany",
}


def is_values(document: Any) -> TypeGuard[dict[str, Any]]:
    return (
        isinstance(document, dict)
        and document.get("kind") is None
        and isinstance(document.get("servingEngineSpec"), dict)
    )


def translate(document: Section) -> Outcome:
    """All models of a file of values."""
    outcome = Outcome()
    stack = document.section("servingEngineSpec")
    for entry in stack.sections("modelSpec"):
        title = f"production stack model {entry.text('name')}"
        if entry.text("enabled") == "false":
            outcome.notes.append(Note(entry.path, f"passed over {title}: isn't enabled"))
            continue
        try:
            if not entry.text("name"):
                raise ForeignError(f"{entry.at('name')}: is required")
            draft = _model(title, entry, stack)
            draft.lose_all(entry.left())
            outcome.drafts.append(draft)
        except (NotImported, ForeignError) as error:
            outcome.refused.append(Refused(title, str(error)))
    if "vllmApiKey" in stack:
        stack.ignore("vllmApiKey")
        outcome.notes.append(Note(stack.at("vllmApiKey"), "keys are made by `ams keys create`", lost=True))
    stack.ignore(*_OF_THE_STACK, "env", "tolerations", "runtimeClassName")
    for name, text in _ABOUT_FILE.items():
        if name in document:
            document.ignore(name)
            outcome.notes.append(Note(name, text, lost=not text.startswith("not needed")))
    outcome.notes += [Note(f"{path} ({value})" if value else path, "", lost=True) for path, value in document.left()]
    return outcome


def _model(title: str, entry: Section, stack: Section) -> Draft:
    name = entry.text("name")
    draft = Draft(title, name)
    for field, ours in (("labels", "labels"), ("annotations", "annotations")):
        if found := {str(key): str(each) for key, each in entry.mapping(field).items()}:
            draft.metadata[ours] = found
    image = entry.text("repository")
    image += f":{entry.text('tag')}" if image and "tag" in entry else ""
    _resources(draft, entry)
    if not (model := entry.text("modelURL")):
        raise NotImported(f"{entry.at('modelURL')}: missing")
    words = ["--model", model, *_words(draft, entry)]
    variables = [*stack.items("env"), *entry.items("env"), *_cache_server(draft, entry, words)]
    gpus = kubernetes.gpus_of(draft.get("resources.limits") or {})
    _pod(draft, entry, stack)
    _token(draft, entry)
    serve(draft, Server("vllm", tuple(words)), Surroundings(entry.at("vllmConfig"), variables, (), gpus, 1, image))
    _storage(draft, entry)
    keda = entry.section("keda")
    if keda.flag("enabled"):
        scaling.keda(draft, keda)
        entry.ignore("replicaCount")
    else:
        replicas = entry.number("replicaCount")
        scaling.set_replicas(draft, 1 if replicas is None else replicas)
        entry.ignore("keda")
    _told(draft, entry)
    return draft


def _words(draft: Draft, entry: Section) -> list[str]:
    """vLLM's arguments, as the chart writes them."""
    config = entry.section("vllmConfig")
    words = []
    if parser := entry.text("toolCallParser"):
        words += ["--tool-call-parser", parser]
    if "enableChunkedPrefill" in config:
        words.append(
            "--enable-chunked-prefill" if config.flag("enableChunkedPrefill") else "--no-enable-chunked-prefill"
        )
    if config.flag("enablePrefixCaching"):
        words.append("--enable-prefix-caching")
    elif "vllmConfig" in entry:
        words.append("--no-enable-prefix-caching")
        draft.say(
            config.at("enablePrefixCaching"),
            "off, as the chart has it unless it is set: without limits.prefixCacheTokens it is on",
        )
    for field, option in _NUMBERS:
        if text := config.text(field):
            words += [option, text]
    words += config.texts("extraArgs")
    if revision := entry.text("modelRevision"):
        words += ["--revision", revision]
    if entry.text("enableLoRA") == "true":
        words.append("--enable-lora")
    config.ignore("v0", "v1", "prometheusMultiprocDir")
    return words


def _cache_server(draft: Draft, entry: Section, words: list[str]) -> Iterator[dict[str, str]]:
    """What LMCache needs of vLLM's words, and its variables."""
    cache = entry.section("lmcacheConfig")
    if not cache.flag("enabled"):
        entry.ignore("lmcacheConfig")
        return
    role = cache.text("kvRole") or "kv_both"
    words += ["--kv-transfer-config", json.dumps({"kv_connector": "LMCacheConnectorV1", "kv_role": role})]
    draft.say(cache.path, "LMCache is in the image that is named: --kv-transfer-config and variables of engine.env")
    size, disk = cache.text("cpuOffloadingBufferSize"), cache.text("diskOffloadingBufferSize")
    if size not in ("", "0"):
        yield {"name": "LMCACHE_LOCAL_CPU", "value": "True"}
        yield {"name": "LMCACHE_MAX_LOCAL_CPU_SIZE", "value": size}
    if disk:
        yield {"name": "LMCACHE_MAX_LOCAL_DISK_SIZE", "value": disk}
    if level := cache.text("logLevel"):
        yield {"name": "LMCACHE_LOG_LEVEL", "value": level}
    if devices := cache.text("cudaVisibleDevices"):
        draft.lose(f"{cache.at('cudaVisibleDevices')} ({devices})", "GPUs are asked for in resources.limits")


def _resources(draft: Draft, entry: Section) -> None:
    whole = entry.section("resources")
    limits, requests = dict(whole.mapping("limits")), dict(whole.mapping("requests"))
    if not limits and not requests:
        kind = entry.text("requestGPUType") or "nvidia.com/gpu"
        for prefix, place in (("request", requests), ("limit", limits)):
            for field, resource in (("CPU", "cpu"), ("Memory", "memory"), *_OF_SHARES):
                if text := entry.text(f"{prefix}{field}"):
                    place[resource] = text
        if (count := entry.text("requestGPU")) not in ("", "0"):
            limits[kind] = count
    else:
        entry.ignore(
            *(f"{prefix}{field}" for prefix in ("request", "limit") for field in ("CPU", "Memory", "GPU", "GPUType"))
        )
    draft.set("resources.limits", limits)
    draft.set("resources.requests", requests)
    if not any("/" in str(name) for name in limits):
        draft.lose(
            entry.at("requestGPU"), "no GPU is asked for: without nvidia.com/gpu in resources.limits there is none"
        )


def _pod(draft: Draft, entry: Section, stack: Section) -> None:
    ours, theirs = entry.items("tolerations"), stack.items("tolerations")
    override = entry.text("tolerationsPolicy") == "override" and ours
    draft.set("tolerations", ours if override else [*theirs, *ours])
    runtime = entry.text("runtimeClassName") if "runtimeClassName" in entry else stack.text("runtimeClassName")
    draft.set("runtimeClassName", runtime)
    if not runtime and "runtimeClassName" not in stack and "runtimeClassName" not in entry:
        draft.say(entry.at("runtimeClassName"), "missing, which is nvidia in the chart: set it where nodes need it")
    draft.set("priorityClassName", entry.text("priorityClassName"))
    draft.set("serviceAccountName", entry.text("serviceAccountName"))
    if secret := entry.text("imagePullSecret"):
        draft.set("imagePullSecrets", [{"name": secret}])
    draft.set("podAnnotations", entry.mapping("podAnnotations"))
    draft.set("podLabels", entry.mapping("podLabels"))
    affinity, terms, node = entry.mapping("affinity"), entry.items("nodeSelectorTerms"), entry.text("nodeName")
    if affinity:
        draft.set("affinity", affinity)
    elif node:
        draft.set("nodeSelector", {"kubernetes.io/hostname": node})
    elif terms:
        required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}
        draft.set("affinity.nodeAffinity", required)


def _token(draft: Draft, entry: Section) -> None:
    token = entry.mapping("hf_token") if isinstance(entry.any("hf_token"), dict) else {}
    if token.get("secretName") and token.get("secretKey"):
        draft.set("model.tokenSecretRef", {"name": str(token["secretName"]), "key": str(token["secretKey"])})
    elif "hf_token" in entry:
        draft.lose(
            entry.at("hf_token"),
            "a secret in plain text, not repeated here: put it in a Secret and set model.tokenSecretRef: {name, key}",
        )
    entry.ignore("hf_token")


def _storage(draft: Draft, entry: Section) -> None:
    size = entry.any("pvcStorage")
    entry.ignore("pvcStorage")
    if isinstance(size, str | int) and not isinstance(size, bool) and size:
        draft.set("cache.size", str(size))
        draft.set("cache.storageClassName", entry.text("storageClass"))
    else:
        entry.ignore("storageClass")
    modes = entry.texts("pvcAccessMode")
    if "ReadWriteMany" in modes:
        draft.say(
            entry.at("pvcAccessMode"),
            "each replica has a volume of its own: or cache.accessMode: ReadWriteMany, for one",
        )
    if claim := entry.text("pvcExistingClaimName"):
        draft.lose(
            f"{entry.at('pvcExistingClaimName')} ({claim})",
            "weights are laid out otherwise here: a new volume has them",
        )


def _told(draft: Draft, entry: Section) -> None:
    for name, text in (
        ("chatTemplate", "prompts are made by the chat template among the weights"),
        ("chatTemplateConfigMap", "prompts are made by the chat template among the weights"),
        ("initContainer", "nothing runs before the model; weights are downloaded by its pod"),
        ("extraVolumes", "no volumes are mounted into the engine's container"),
        ("extraVolumeMounts", "no volumes are mounted into the engine's container"),
        ("envFromSecret", "variables of a whole Secret: name each in engine.env"),
        ("extraArgs", "the chart doesn't read it here, but in vllmConfig"),
        ("nodeSelector", "the chart doesn't read it: nodeSelector is a field here"),
    ):
        if name in entry and entry.any(name):
            draft.lose(entry.at(name), text)
        entry.ignore(name)
    ray = entry.section("raySpec")
    if ray.flag("enabled"):
        draft.lose(ray.path, "for a model larger than a node set engine.nodes: docs/operations/large-models.md")
    entry.ignore("raySpec", *_NOT_NEEDED)
    ray.ignore("headNode")
