"""KServe's `InferenceService` (serving.kserve.io/v1beta1), served by its Hugging Face or vLLM runtime.

Fields as in pkg/apis/serving/v1beta1; options of the Hugging Face runtime as in python/huggingfaceserver.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ams_cli.importing import kserve_runtimes, kubernetes, vllm_options
from ams_cli.importing.kserve_runtimes import CONTAINER
from ams_cli.importing.kserve_sources import source_of
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, NotImported
from ams_cli.importing.vllm_commands import MODELS, arguments_of
from ams_cli.importing.words import options

API_GROUP, KIND = "serving.kserve.io", "InferenceService"

_FORMATS = {"huggingface": "huggingface", "vllm": "vllm"}
_TASKS = {"text_embedding": "embedding", "embedding": "embedding", "embed": "embedding"}
_ENCODERS_ONLY = (
    "--tensor-input-names", "--disable-lower-case", "--disable-special-tokens", "--return-token-type-ids",
    "--return-offsets-mapping", "--return-probabilities", "--return-raw-logits", "--max-log-len",
)  # fmt: skip
_RUNTIMES_OWN = {
    "--http-port", "--grpc-port", "--workers", "--max-threads", "--max-asyncio-workers", "--enable-grpc",
    "--enable-docs-url", "--log-config-file", "--access-log-format", "--configure-logging", "--predictor-protocol",
}  # fmt: skip
_STORAGE = "STORAGE_URI"  # the variable of a container that KServe fills /mnt/models by


def translate(document: Section, runtimes: Mapping[str, Any]) -> Draft:
    """A draft; NotImported says why a service can't be served. `runtimes` are specs of ServingRuntimes by name."""
    draft = kubernetes.start(document, "KServe InferenceService", "kserve.io")
    spec = document.section("spec")
    predictor = spec.section("predictor")
    runtime, server = _server(draft, predictor, runtimes)
    variables, stored = _variables(server)
    draft.set("model.source", _storage(predictor, server, stored))
    rest = _hugging_face(draft, server) if runtime == "huggingface" else _vllm(draft, server)
    limits = server.section("resources").mapping("limits")
    draft.set("resources.limits", limits)
    draft.set("resources.requests", server.section("resources").mapping("requests"))
    _options(draft, rest, server, kubernetes.gpus_of(limits))
    if draft.get("model.source") is None:
        raise NotImported(f"{server.at('storageUri')}: missing, and no argument names a model of the hub")
    kubernetes.environment(draft, variables)
    kubernetes.pass_on(draft, predictor)
    for field, name in (("podLabels", "labels"), ("podAnnotations", "annotations")):
        draft.set(field, {**(draft.get(field) or {}), **predictor.mapping(name)})
    _replicas(draft, predictor)
    for name in ("transformer", "explainer", "canary"):
        if name in spec:
            spec.ignore(name)
            draft.lose(spec.at(name), "what stands before or beside the model goes into a service of its own")
    for container in predictor.sections("containers"):
        if container.text("name") != CONTAINER:
            draft.lose(f"{container.path} ({container.text('name')})", "a container beside the model has no place")
    if "workerSpec" in predictor:
        predictor.ignore("workerSpec")
        draft.lose(
            predictor.at("workerSpec"),
            "for a model larger than a node set engine.nodes: docs/operations/large-models.md",
        )
    server.ignore("protocolVersion", "name", "ports", "readinessProbe", "livenessProbe", "startupProbe")
    draft.lose_all(server.left())
    draft.lose_all(document.left())
    return draft


def _server(draft: Draft, predictor: Section, runtimes: Mapping[str, Any]) -> tuple[str, Section]:
    """Which runtime serves, and the section that says how."""
    if "model" in predictor:
        model = Section(predictor.mapping("model"), predictor.at("model"))
        form, runtime = model.section("modelFormat"), model.text("runtime")
        name, image = form.text("name"), model.text("image")
        form.ignore("version")
        if runtime in runtimes:
            whole = kserve_runtimes.merged(draft, predictor.mapping("model"), runtimes[runtime], f"runtime {runtime}")
            model = Section(whole, predictor.at("model"))
            model.ignore("modelFormat", "runtime")
            image = model.text("image")
        elif runtime and not runtime.startswith("kserve-"):
            draft.lose(
                f"{model.at('runtime')} ({runtime})",
                "its image, arguments and variables are in a ServingRuntime: import again with it as a further file",
            )
        for word, kind in _FORMATS.items():
            if name.lower() == word or word in runtime.lower() or word in image.lower():
                return kind, model
        raise NotImported(f"{form.at('name')} {name!r}: only models of the formats huggingface and vLLM are served")
    if "huggingface" in predictor:
        return "huggingface", Section(predictor.mapping("huggingface"), predictor.at("huggingface"))
    for container in predictor.sections("containers"):
        if container.text("name") == CONTAINER:
            kinds = [kind for word, kind in _FORMATS.items() if word in container.text("image").lower()]
            if kinds:
                return kinds[-1], container
            raise NotImported(f"{container.at('image')}: only images of vLLM and of the Hugging Face runtime are known")
    raise NotImported(f"{predictor.path}: has neither a model of a known format nor a container of vLLM")


def _variables(server: Section) -> tuple[list[Any], str]:
    """The variables, and where weights are stored if one of them tells."""
    kept: list[Any] = []
    stored = ""
    for each in server.items("env"):
        if isinstance(each, dict) and each.get("name") == _STORAGE and isinstance(each.get("value"), str):
            stored = each["value"]
        else:
            kept.append(each)
    return kept, stored


def _storage(predictor: Section, server: Section, stored: str) -> str | None:
    named = [server.text("storageUri"), stored, *(each.text("uri") for each in predictor.sections("storageUris"))]
    found = [uri for uri in named if uri]
    if len(found) > 1:
        raise NotImported(f"{predictor.at('storageUris')}: a model has one source here")
    if not found:
        storage = server.section("storage")
        if path := storage.text("path"):
            raise NotImported(f"{storage.at('path')} ({path}): object stores are not a source; use pvc:// or hf://")
        return None
    return source_of(found[0], server.at("storageUri"))


def _hugging_face(draft: Draft, server: Section) -> list[str]:
    """Set the engine; the arguments that are vLLM's."""
    at = server.at("args")
    backend = "auto"
    rest: list[str] = []
    for option in options([*server.texts("command"), *server.texts("args")]):
        where = f"{at} {option.name}"
        match option.name:
            case "":
                continue  # of the command: python -m huggingfaceserver
            case "-m":
                continue
            case "--model-name":
                draft.aliases.append(option.value)
            case "--model-id":
                draft.set("model.source", draft.get("model.source") or _of_hub(option.value))
            case "--model-revision":
                draft.set("model.source", vllm_options.with_revision(draft.get("model.source"), option.value))
            case "--max-length":
                draft.set("limits.contextTokens", vllm_options.tokens(option.value))
            case "--backend":
                backend = option.value
            case "--task" if option.value in _TASKS:
                draft.set("model.family", _TASKS[option.value])
            case "--task" if option.value == "text_generation":
                draft.say(where, "not needed: it is read from config.json")
            case "--task":
                raise NotImported(f"{where} {option.value}: only text generation and embeddings are served")
            case "--model-dir":
                draft.say(where, "not needed: where weights lie is known")
            case name if name in _ENCODERS_ONLY:
                draft.lose(where, "of encoders that classify")
            case name if name in _RUNTIMES_OWN:
                draft.say(where, "not needed: of KServe's server")
            case _:
                rest += option.words
    if backend == "vllm" or (backend == "auto" and draft.get("model.family") is None):
        draft.set("engine.name", "auto" if backend == "auto" and not rest else "vllm")
    else:
        draft.set("engine.name", "builtin")
    return rest


def _vllm(draft: Draft, server: Section) -> list[str]:
    draft.set("engine.name", "vllm")
    draft.set("engine.image", server.text("image"))
    return arguments_of(draft, server)


def _options(draft: Draft, words: Sequence[str], server: Section, gpus: int) -> None:
    """vLLM's arguments; the program itself, and the folder of the weights, are known."""
    kept: list[str] = []
    for option in options(words):
        if option.name == "" or option.name == "-m":
            if "/" in option.value and option.value.count("/") == 1 and not option.value.startswith("/"):
                draft.set("model.source", draft.get("model.source") or _of_hub(option.value))
        elif option.name == "--model" and option.value.rstrip("/") == MODELS:
            continue
        else:
            kept += option.words
    vllm_options.apply(draft, kept, server.at("args"), gpus)
    args = draft.get("engine.args")
    if args and draft.get("engine.name") in ("auto", "builtin"):
        if draft.get("engine.name") == "builtin":
            draft.lose(f"{server.at('args')} {' '.join(args)}", "arguments of vLLM, which doesn't serve this one")
            del draft.spec["engine"]["args"]
        else:
            draft.set("engine.name", "vllm")


def _of_hub(name: str) -> str | None:
    """A model of the hub; those without an owner are of its early days and have one now."""
    return f"hf://{name}" if re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def _replicas(draft: Draft, predictor: Section) -> None:
    least, most = predictor.number("minReplicas"), predictor.number("maxReplicas") or 0
    target, metric = predictor.number("scaleTarget"), predictor.text("scaleMetric")
    least = 1 if least is None else least
    if not most:
        draft.lose(
            predictor.at("maxReplicas"), f"missing, which is unlimited on Knative; it is {max(least, 1)} here: raise it"
        )
    most = max(most, least, 1)
    if least == most:
        draft.spec["replicas"] = least
    else:
        draft.spec["autoscaling"] = {"minReplicas": least, "maxReplicas": most}
        if metric in ("", "concurrency") and target:
            draft.set("autoscaling.targetConcurrency", target)
    if metric not in ("", "concurrency"):
        draft.lose(f"{predictor.at('scaleMetric')} ({metric})", "replicas follow the requests in flight")
    if most > 1:
        draft.set("cache.perReplica", True)
    if (count := predictor.number("containerConcurrency")) is not None and count > 0:
        vllm_options.set_requests(draft, count, predictor.at("containerConcurrency"))
    draft.set("limits.requestTimeoutSeconds", predictor.number("timeout"))
