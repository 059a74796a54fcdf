"""KAITO's `Workspace` (kaito.sh/v1beta1 and older) and `InferenceSet`; fields as in its api/ folder."""

from collections.abc import Mapping
from typing import Any

from ams_cli.importing import kubernetes, vllm_options
from ams_cli.importing.kaito_catalog import NVIDIA_GPUS, PRESETS
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported

API_GROUP = "kaito.sh"
KINDS = ("Workspace", "InferenceSet")

_INSTANCE_TYPE = "node.kubernetes.io/instance-type"
_GPU = "nvidia.com/gpu"
_TOKEN_KEY = "HF_TOKEN"
_CONFIG_FILE = "inference_config.yaml"


def translate(document: Section, kind: str, configs: Mapping[str, Any]) -> Draft:
    """A draft; NotImported says why a model can't be served.

    `configs` are the inference configurations of ConfigMaps among the documents, by name.
    """
    draft = kubernetes.start(document, f"KAITO {kind}", "kaito.sh")
    if "tuning" in document:
        raise NotImported("tuning: models are served here, not tuned")
    if kind == "InferenceSet":
        spec = document.section("spec")
        template = spec.section("template")
        resource, inference, selecting = template.section("resource"), template.section("inference"), spec
        draft.spec["replicas"] = 1 if (replicas := spec.number("replicas")) is None else replicas
        if draft.spec["replicas"] > 1:
            draft.set("cache.perReplica", True)
    else:
        resource, inference = document.section("resource"), document.section("inference")
        selecting = resource
    _runtime(draft, document.section("metadata").section("annotations"))
    _preset(draft, inference)
    gpus = _machines(draft, resource)
    _selector(draft, selecting.section("labelSelector"))
    _config(draft, inference, configs, gpus)
    for adapter in inference.sections("adapters"):
        draft.lose(
            f"{adapter.path} ({adapter.section('source').text('name')})",
            "adapters come from images there; name them in spec.adapters, of a hub or a volume",
        )
    draft.lose_all(document.left())
    return draft


def config_in(document: Any) -> Any:
    """The text of the inference configuration of a ConfigMap; None if it has none."""
    data = document.get("data") if isinstance(document, dict) else None
    return data.get(_CONFIG_FILE) if isinstance(data, dict) else None


def _runtime(draft: Draft, annotations: Section) -> None:
    runtime = annotations.text("kaito.sh/runtime")
    draft.set("engine.name", "builtin" if runtime == "transformers" else "vllm")


def _preset(draft: Draft, inference: Section) -> None:
    if "preset" not in inference:
        raise NotImported(
            f"{inference.at('template')}: only presets are imported; a pod of your own stays a Deployment"
        )
    preset = inference.section("preset")
    name = preset.text("name")
    repository = PRESETS.get(name.lower(), name)
    if repository.count("/") != 1:
        raise NotImported(f"{preset.at('name')} {name!r}: not a preset that is known, and not a model of the hub")
    draft.set("model.source", f"hf://{repository}")
    preset.ignore("accessMode")
    chosen = preset.section("presetOptions")
    if secret := chosen.text("modelAccessSecret"):
        draft.set("model.tokenSecretRef", {"name": secret, "key": _TOKEN_KEY})
    if image := chosen.text("image"):
        draft.lose(f"{chosen.at('image')} ({image})", "an image of weights is no source; they come from the hub")
    chosen.ignore("imagePullSecrets")


def _machines(draft: Draft, resource: Section) -> int:
    """Nodes by their type, and the GPUs of one; how many GPUs there are."""
    gpus = 1
    if machine := resource.text("instanceType"):
        draft.set("nodeSelector", {_INSTANCE_TYPE: machine})
        if machine in NVIDIA_GPUS:
            gpus = NVIDIA_GPUS[machine]
        else:
            draft.lose(f"{resource.at('instanceType')} ({machine})", "its GPUs are not known here: one is asked for")
        draft.say(resource.at("instanceType"), "nodes are not made here: the cluster's own autoscaler brings them")
    partition = resource.section("partition")
    mode, profile, count = partition.text("mode"), partition.text("profile"), partition.number("count")
    if (nodes := resource.number("count")) is not None and nodes > 1:
        draft.lose(
            f"{resource.at('count')} ({nodes})",
            "for a model larger than a node set engine.nodes: docs/operations/large-models.md",
        )
    if mode == "mig":
        draft.set("resources.limits", {f"nvidia.com/mig-{profile}": 1})
        return 1
    if mode == "accelerator" and count:
        gpus = count
    elif not machine:
        draft.say("resources.limits", "one GPU: no machine is named, and all GPUs of one are used there")
    draft.set("resources.limits", {_GPU: gpus})
    draft.set("tolerations", [{"key": _GPU, "operator": "Exists", "effect": "NoSchedule"}])
    return gpus


def _selector(draft: Draft, selector: Section) -> None:
    """Labels of nodes. KAITO gives them to those it makes; here nodes must have them already."""
    labels = {str(key): str(value) for key, value in selector.mapping("matchLabels").items()}
    if labels:
        draft.set("nodeSelector", {**(draft.get("nodeSelector") or {}), **labels})
        draft.say(selector.at("matchLabels"), "KAITO labels the nodes that it makes; here they must have these labels")
    expressions = selector.items("matchExpressions")
    if expressions:
        terms = {"nodeSelectorTerms": [{"matchExpressions": expressions}]}
        draft.set("affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution", terms)


def _config(draft: Draft, inference: Section, configs: Mapping[str, Any], gpus: int) -> None:
    name = inference.text("config")
    if not name:
        return
    if name not in configs:
        draft.lose(f"{inference.at('config')} ({name})", "the ConfigMap isn't among the files: give it too")
        return
    config = Section(configs[name], f"ConfigMap {name}")
    words: list[str] = []
    for key, value in config.mapping("vllm").items():
        option = f"--{key}"
        if isinstance(value, bool):
            words += [option] if value else [f"--no-{key}"]
        elif isinstance(value, dict | list):
            draft.lose(f"{config.at('vllm')}.{key}")
        else:
            words += [option, str(value)]
    vllm_options.apply(draft, words, config.at("vllm"), gpus)
    if draft.get("engine.args") and draft.get("engine.name") == "builtin":
        draft.lose(config.at("vllm"), "of vLLM, which doesn't serve this one")
        del draft.spec["engine"]["args"]
    draft.lose_all(config.left())
