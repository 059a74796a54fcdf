"""KServe's `LLMInferenceService` (serving.kserve.io/v1alpha1 and v1alpha2), which vLLM serves.

Fields as in pkg/apis/serving/v1alpha1/llm_inference_service_types.go.
"""

import re
from typing import Any

from ams_common.resource.rules import ADAPTER

from ams_cli.importing import kubernetes, vllm_options
from ams_cli.importing.kserve_sources import source_of
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.shell import split
from ams_cli.importing.vllm_commands import arguments_of
from ams_cli.importing.words import options

KIND = "LLMInferenceService"

_CONTAINER = "main"
_MORE_ARGUMENTS = "VLLM_ADDITIONAL_ARGS"
_TRANSFER = "--kv-transfer-config"
_NOT_NEEDED = (
    "name", "ports", "readinessProbe", "livenessProbe", "startupProbe", "imagePullPolicy", "terminationMessagePath",
    "terminationMessagePolicy",
)  # fmt: skip
_LORA = (("maxRank", "--max-lora-rank"), ("maxAdapters", "--max-loras"), ("maxCpuAdapters", "--max-cpu-loras"))


def translate(document: Section) -> Draft:
    """A draft; NotImported says why a service can't be served."""
    draft = kubernetes.start(document, f"KServe {KIND}", "kserve.io")
    spec = document.section("spec")
    model, pod = spec.section("model"), spec.section("template")
    container = _container(draft, pod)
    limits = container.section("resources").mapping("limits")
    draft.set("resources.limits", limits)
    draft.set("resources.requests", container.section("resources").mapping("requests"))
    draft.set("engine.name", "vllm")
    draft.set("engine.image", container.text("image"))
    if not (uri := model.text("uri")):
        raise NotImported(f"{model.at('uri')}: missing")
    draft.set("model.source", source_of(uri, model.at("uri")))
    if name := model.text("name"):
        draft.aliases.append(name)
    variables, words = _variables(container)
    words = [*arguments_of(draft, container), *words, *_parallelism(draft, spec.section("parallelism"))]
    if "prefill" in spec:
        words = _without_transfer(draft, words, container.at("args"))
    vllm_options.apply(draft, words, container.at("args"), kubernetes.gpus_of(limits))
    _adapters(draft, model.section("lora"))
    kubernetes.environment(draft, variables)
    kubernetes.pass_on(draft, pod)
    draft.set("podLabels", spec.mapping("labels"))
    draft.set("podAnnotations", spec.mapping("annotations"))
    _replicas(draft, spec)
    _around(draft, spec)
    container.ignore(*_NOT_NEEDED)
    draft.lose_all(container.left())
    draft.lose_all(document.left())
    return draft


def _container(draft: Draft, pod: Section) -> Section:
    found = Section({}, pod.at("containers"))
    for container in pod.sections("containers"):
        if container.text("name") == _CONTAINER:
            found = container
        else:
            draft.lose(f"{container.path} ({container.text('name')})", "a container beside the model has no place")
    return found


def _variables(container: Section) -> tuple[list[Any], list[str]]:
    """The container's variables, and the arguments that one of them adds to vLLM's."""
    variables, words = [], []
    for each in container.items("env"):
        if isinstance(each, dict) and each.get("name") == _MORE_ARGUMENTS and isinstance(each.get("value"), str):
            words += split(each["value"])
        else:
            variables.append(each)
    return variables, words


def _parallelism(draft: Draft, section: Section) -> list[str]:
    """As arguments of vLLM. Ours puts the weights on all GPUs of a pod, so that copies in one pod have no place."""
    words = ["--enable-expert-parallel"] if section.flag("expert") else []
    tensor, pipeline, copies = section.number("tensor"), section.number("pipeline"), section.number("data")
    section.ignore("dataLocal", "dataRPCPort")
    if copies is not None and copies > 1:
        draft.lose(f"{section.at('data')} ({copies})", "each replica has one copy of the weights here: set replicas")
    elif tensor is not None:
        words += ["--tensor-parallel-size", str(tensor)]
    if pipeline is not None and pipeline > 1:
        words += ["--pipeline-parallel-size", str(pipeline)]
    return words


def _without_transfer(draft: Draft, words: list[str], where: str) -> list[str]:
    """Without what hands prompts' keys and values from pod to pod: with nobody to hand them over, vLLM waits."""
    kept: list[str] = []
    for option in options(words):
        if option.name == _TRANSFER:
            draft.lose(f"{where} {option.name}", "of pods for prefill, which are not separate here")
        else:
            kept += option.words
    return kept


def _adapters(draft: Draft, lora: Section) -> None:
    found: list[dict[str, str]] = []
    for adapter in lora.sections("adapters"):
        name, uri = adapter.text("name"), adapter.text("uri")
        where = f"{adapter.path} ({name})"
        try:
            source = source_of(uri, adapter.at("uri"))
        except NotImported as error:
            draft.lose(where, str(error))
            continue
        if re.fullmatch(ADAPTER.removeprefix("^").removesuffix("$"), name) is None:
            draft.lose(where, "its name can't be an adapter's here: name it in spec.adapters by another")
            continue
        found.append({"name": name, "source": source})
        draft.say(where, f"clients ask for it as MODEL:{name} here")
        draft.lose_all(adapter.left())
    draft.set("adapters", found)
    rooms = [(option, lora.number(field)) for field, option in _LORA]
    words = [word for option, number in rooms if number is not None and found for word in (option, str(number))]
    draft.set("engine.args", [*(draft.get("engine.args") or []), *words])


def _replicas(draft: Draft, spec: Section) -> None:
    replicas, scaling = spec.number("replicas"), spec.section("scaling")
    most = replicas = 1 if replicas is None else replicas
    if "scaling" in spec:
        least = scaling.number("minReplicas")
        least = 1 if least is None else least
        most = max(scaling.number("maxReplicas") or 0, least, 1)
        draft.set("autoscaling", {"minReplicas": least, "maxReplicas": most})
        if "wva" in scaling:
            scaling.ignore("wva")
            draft.lose(scaling.at("wva"), "replicas follow the requests in flight")
    else:
        draft.spec["replicas"] = replicas
    if most > 1:
        draft.set("cache.perReplica", True)


def _around(draft: Draft, spec: Section) -> None:
    """What stands around the pods."""
    router = spec.mapping("router")
    if any(router.values()):
        draft.lose(spec.at("router"), "the gateway chooses replicas by itself; routes of your own go before it")
    elif router:
        draft.say(spec.at("router"), "not needed: the gateway routes, and chooses replicas by load and prompt")
    for name, text in (
        ("prefill", "prompts are read by the pods that answer: count their replicas in"),
        ("worker", "for a model larger than a node set engine.nodes: docs/operations/large-models.md"),
        ("baseRefs", "what the configurations that it names add isn't read: set it here"),
        ("tracing", "traces are set for the installation: docs/tracing.md"),
        ("rolloutStrategy", "new pods come before old ones go, where the volume allows it"),
    ):
        if name in spec:
            spec.ignore(name)
            draft.lose(spec.at(name), text)
    spec.ignore("storageInitializer")
