"""KubeAI's `Model` (kubeai.org/v1).

Its fields are those of api/k8s/v1/model_types.go; a resource profile's name is resolved by the profiles of the chart's
values or of the ConfigMap with the system's configuration, where one of them is among the documents.
"""

import re
from collections.abc import Mapping
from typing import Any

from ams_common.quantity import InvalidQuantity, parse_quantity
from ams_common.resource.rules import ADAPTER

from ams_cli.importing import kubernetes, vllm_options
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported

API_GROUP, KIND = "kubeai.org", "Model"

_TARGET_REQUESTS, _SCALE_DOWN_SECONDS = 100, 30  # KubeAI's defaults
_OUR_REQUESTS = 16  # the default of limits.concurrentRequests
_VENDORS = (("nvidia-gpu", "nvidia.com/gpu"), ("gh200", "nvidia.com/gpu"), ("amd-gpu", "amd.com/gpu"))
_STORES = ("s3", "gs", "oss")


def translate(document: Section, profiles: Mapping[str, Any]) -> Draft:
    """A draft; NotImported says why a model can't be served. `profiles` are resource profiles by name."""
    draft = kubernetes.start(document, "KubeAI Model", "kubeai.org")
    spec = document.section("spec")
    engine = spec.text("engine")
    if engine not in ("VLLM", "Infinity"):
        raise NotImported(_why_not(engine, spec.text("url")))
    draft.set("model.source", _source(spec.text("url")))
    _features(draft, spec)
    draft.set("engine.name", "vllm" if engine == "VLLM" else None)
    draft.set("engine.image", spec.text("image"))
    gpus = _resources(draft, spec, profiles)
    if engine == "VLLM":
        vllm_options.apply(draft, spec.texts("args"), spec.at("args"), gpus)
        kubernetes.environment(
            draft, [{"name": name, "value": str(value)} for name, value in spec.mapping("env").items()]
        )
    else:
        draft.set("model.family", "embedding")
    _replicas(draft, spec)
    _cache(draft, spec)
    draft.set("priorityClassName", spec.text("priorityClassName"))
    balancing = spec.section("loadBalancing")
    if balancing.text("strategy") == "PrefixHash":
        draft.say(balancing.at("strategy"), "not needed: prompts that begin alike meet")
    _adapters(draft, spec, engine)
    draft.lose_all(document.left())
    return draft


def _adapters(draft: Draft, spec: Section, engine: str) -> None:
    """Those of a hub or a volume; clients ask for them by other names here."""
    found = []
    for adapter in spec.sections("adapters"):
        name, url = adapter.text("name"), adapter.text("url")
        where = f"{adapter.path} ({name})"
        try:
            source = _source(url)
        except NotImported:
            draft.lose(where, f"{url} is not a source; copy the adapter onto a volume, and name it in spec.adapters")
            continue
        if engine != "VLLM" or re.fullmatch(ADAPTER.strip("^$"), name) is None:
            draft.lose(where, "can't be an adapter here")
            continue
        found.append({"name": name, "source": source})
        draft.say(where, f"clients ask for it as MODEL:{name} here, instead of MODEL_{name}")
    draft.set("adapters", found)


def profiles_in(document: Any) -> dict[str, Any]:
    """Resource profiles of the chart's values, or of KubeAI's configuration; none in any other document."""
    found = document.get("resourceProfiles") if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _why_not(engine: str, url: str) -> str:
    if engine == "OLlama" or url.startswith("ollama://"):
        return (
            f"{url or engine}: models of Ollama's registry are not served; name the same GGUF file on the hub, as in "
            "hf://owner/name-GGUF?file=name-Q4_K_M.gguf"
        )
    if engine == "FasterWhisper":
        return "speech recognition by FasterWhisper is not served; a model of the family audio writes down speech"
    if not engine:
        return "spec.engine: missing; of a model of the chart's own catalog, import what `helm template` writes"
    return f"spec.engine {engine!r} is not known"


def _source(url: str) -> str:
    scheme, _, rest = url.partition("://")
    if scheme in _STORES:
        raise NotImported(f"{url}: object stores are not a source; copy the files onto a volume, as pvc://claim/path")
    path, _, query = rest.partition("?")
    if query or scheme not in ("hf", "pvc"):
        raise NotImported(f"{url}: not a source of weights; known are hf://owner/name and pvc://claim/path")
    return f"{scheme}://{path}"


def _features(draft: Draft, spec: Section) -> None:
    features = spec.texts("features")
    if "TextEmbedding" in features or "Reranking" in features:
        draft.set("model.family", "embedding")
    if features:
        draft.say(spec.at("features"), "not needed: what a model can do is read from its config.json")


def _resources(draft: Draft, spec: Section, profiles: Mapping[str, Any]) -> int:
    """The profile as resources, selectors and tolerations; the number of GPUs."""
    text = spec.text("resourceProfile")
    if not text:
        return 0
    where = f"{spec.at('resourceProfile')} ({text})"
    found = re.fullmatch(r"(?P<name>.+):(?P<count>[1-9][0-9]{0,3})", text)
    if found is None:
        draft.lose(where)
        return 0
    name, count = found["name"], int(found["count"])
    if name in profiles:
        return _of_profile(draft, Section(profiles[name], f"resourceProfiles.{name}"), count)
    if name == "cpu":
        draft.set("resources.requests", {"cpu": count, "memory": f"{2 * count}Gi"})
        return 0
    for part, resource in _VENDORS:
        if part in name:
            draft.set("resources.limits", {resource: count})
            draft.set("tolerations", [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}])
            draft.lose(
                where,
                "which node has such a GPU is in KubeAI's configuration: set nodeSelector, "
                "or import again with the values of its chart as a further file",
            )
            return count
    draft.lose(where, "not known here: set resources; or give the values of KubeAI's chart as a further file")
    return 0


def _of_profile(draft: Draft, profile: Section, count: int) -> int:
    profile.ignore("imageName")
    limits = {key: _times(value, count) for key, value in profile.mapping("limits").items()}
    draft.set("resources.limits", limits)
    draft.set("resources.requests", {key: _times(each, count) for key, each in profile.mapping("requests").items()})
    kubernetes.pass_on(draft, profile)
    draft.lose_all(profile.left())
    return kubernetes.gpus_of(limits)


def _times(amount: Any, count: int) -> str | int:
    """A quantity of Kubernetes, several times: 6Gi twice is 12Gi."""
    found = re.fullmatch(r"([0-9]{1,9})([A-Za-z]*)", str(amount))
    if found is not None:
        whole = int(found[1]) * count
        return f"{whole}{found[2]}" if found[2] else whole
    try:
        return str(parse_quantity(str(amount)) * count)
    except InvalidQuantity:
        return str(amount)


def _replicas(draft: Draft, spec: Section) -> None:
    least, most, replicas = spec.number("minReplicas") or 0, spec.number("maxReplicas"), spec.number("replicas")
    target, delay = spec.number("targetRequests"), spec.number("scaleDownDelaySeconds")
    if spec.flag("autoscalingDisabled"):
        draft.spec["replicas"] = 1 if replicas is None else replicas
        most = draft.spec["replicas"]
    else:
        if most is None:
            draft.lose(spec.at("maxReplicas"), "missing, which is unlimited in KubeAI; it is 1 here: raise it")
            most = max(1, least)
        wanted = target or _TARGET_REQUESTS
        at_once = draft.get("limits.concurrentRequests") or _OUR_REQUESTS
        if wanted > at_once:
            draft.say(
                spec.at("targetRequests"),
                f"{wanted} is more than a pod computes at a time, so {at_once}: limits.concurrentRequests is the bound",
            )
        draft.spec["autoscaling"] = {
            "minReplicas": least,
            "maxReplicas": most,
            "targetConcurrency": min(wanted, at_once),
            "idleSeconds": _SCALE_DOWN_SECONDS if delay is None else delay,
        }
    if most > 1:
        draft.set("cache.perReplica", True)


def _cache(draft: Draft, spec: Section) -> None:
    if profile := spec.text("cacheProfile"):
        draft.lose(
            f"{spec.at('cacheProfile')} ({profile})",
            "weights are kept on a volume of the model's own; for one that all replicas share set cache.accessMode: "
            "ReadWriteMany and cache.storageClassName",
        )
