"""Which product each document is of, and all of them as drafts of ModelDeployments."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from ams_common.names import API_VERSION, KIND
from ams_common.resource.parse import InvalidResource, parse_model_deployment
from ams_common.resource.spec import Spec

from ams_cli.importing import (
    compose,
    kaito,
    kserve,
    kserve_llm,
    kserve_runtimes,
    kubeai,
    llama_swap,
    llm_d,
    production_stack,
    scaling,
    workloads,
)
from ams_cli.importing.credentials import without_secrets
from ams_cli.importing.kubeai_catalog import catalog_in
from ams_cli.importing.naming import settle
from ams_cli.importing.pod_variables import values_in
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft, ForeignError, Note, NotImported, Outcome, Refused
from ams_cli.yaml_loader import load_yaml

_RELEASE = re.compile(r"(?:vllm-openai|sglang):v?([0-9]{1,4}\.[0-9]{1,4}(?:\.[0-9]{1,4})?)(?![0-9])")
_MOST_MODELS = 1000
_OLDEST = {"vllm": (0, 14), "sglang": (0, 5, 5)}  # that `ams_common.engines` speaks to
_TEMPLATE = re.compile(r"\{\{-?\s*(?:\.(?:Values|Release|Chart|Files)\b|include |tpl |template |toYaml |\$)")
_TO_THE_GATEWAY = "clients reach all models at the gateway"
_ABOUT_KINDS = {
    **dict.fromkeys(
        ("Service", "Ingress", "HTTPRoute", "Gateway", "InferencePool", "InferenceModel", "Route"), _TO_THE_GATEWAY
    ),
    **dict.fromkeys(("Secret", "Namespace", "ServiceAccount"), "it stays, and is needed where the model names it"),
    "PersistentVolumeClaim": "it stays as it is; a model whose source isn't pvc:// has a volume of its own",
    **dict.fromkeys(("PodMonitor", "ServiceMonitor", "PodMonitoring"), "metrics of all models: docs/monitoring.md"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """A document: where it was, what it holds, and the folder of its file."""

    where: str
    value: Any
    folder: str


def translate_all(sources: Sequence[Source], wanted: str, environment: Mapping[str, str]) -> Outcome:
    """`wanted` is one of PRODUCTS, or `auto` for all.

    A document with a field that isn't what it should be stops no other; ForeignError if there is no other.
    """
    outcome = Outcome()
    profiles: dict[str, Any] = {}
    configs: dict[str, Any] = {}
    runtimes: dict[str, Any] = {}
    values: dict[str, Any] = {}
    failed: list[str] = []
    known = [(source, _product(source.value, wanted)) for given in sources for source in _written_out(given)]
    for source, product in known:
        if product is None:
            profiles |= _profiles(source)
            configs |= _configs(source)
            runtimes |= _runtimes(source)
            values |= values_in(source.value)
    workloads_around = workloads.Around(scaling.scalers_in(source.value for source, _ in known), values)
    targets = {
        (str(each["kind"]), _name(each))
        for each in (source.value for source, product in known if product == "kubernetes")
    }
    for source, product in known:
        try:
            match product:
                case None:
                    outcome.notes += _skipped(source, targets)
                case "kubernetes":
                    _workload(outcome, source, workloads_around)
                case "kubeai":
                    _one(outcome, source, lambda document: kubeai.translate(document, profiles))
                case "kserve":
                    if source.value["kind"] == kserve_llm.KIND:
                        _one(outcome, source, kserve_llm.translate)
                    else:
                        _one(outcome, source, lambda document: kserve.translate(document, runtimes))
                case "kaito":
                    kind = str(source.value["kind"])
                    _one(outcome, source, lambda document, kind=kind: kaito.translate(document, kind, configs))  # type: ignore[misc]
                case "llm-d":
                    _one(outcome, source, llm_d.translate)
                case "production-stack":
                    _several(outcome, production_stack.translate(Section(source.value)))
                case "compose":
                    _several(outcome, compose.translate(Section(source.value), source.folder, environment))
                case _:
                    _several(outcome, llama_swap.translate(Section(source.value), source.folder, environment))
        except ForeignError as error:
            failed.append(f"{source.where}: {error}")
    if failed and not outcome.drafts and not outcome.refused:
        raise ForeignError("\n".join(failed))
    if len(outcome.drafts) > _MOST_MODELS:
        raise ForeignError(f"more than {_MOST_MODELS} models: import fewer files at a time")
    outcome.refused += [Refused(*each.split(": ", 1)) for each in failed]
    for draft in outcome.drafts:
        without_secrets(draft)
        _defaults(draft)
    settle(outcome.drafts)
    _check(outcome)
    return outcome


def _written_out(source: Source) -> Iterator[Source]:
    """The document, and the models that a chart would make of it."""
    yield source
    if (catalog := catalog_in(source.value)) is not None:
        yield from (Source(source.where, model, source.folder) for model in catalog.models)


def document_of(draft: Draft) -> dict[str, Any]:
    """The draft as a document, its fields in the order of their reference."""
    order = [field.encode_name for field in msgspec.structs.fields(Spec)]
    spec = {name: draft.spec[name] for name in order if name in draft.spec}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": draft.metadata, "spec": spec}


def _product(value: Any, wanted: str) -> str | None:
    """Of which product a document is; None if it is of none, or of one that isn't wanted."""
    found = None
    if isinstance(value, dict) and catalog_in(value) is None:
        group = str(value.get("apiVersion", "")).partition("/")[0]
        kind = value.get("kind")
        if (group, kind) == (kubeai.API_GROUP, kubeai.KIND):
            found = "kubeai"
        elif group == kserve.API_GROUP and kind in (kserve.KIND, kserve_llm.KIND):
            found = "kserve"
        elif group == kaito.API_GROUP and kind in kaito.KINDS:
            found = "kaito"
        elif workloads.is_workload(value):
            found = "kubernetes"
        elif not group and production_stack.is_values(value):
            found = "production-stack"
        elif not group and llm_d.is_values(value):
            found = "llm-d"
        elif not group and compose.is_compose(value):
            found = "compose"
        elif not group and kind is None and "models" in value and "resourceProfiles" not in value:
            found = "llama-swap"
    return found if wanted in ("auto", found) else None


def _several(outcome: Outcome, found: Outcome) -> None:
    outcome.drafts += found.drafts
    outcome.refused += found.refused
    outcome.notes += found.notes


def _workload(outcome: Outcome, source: Source, around: workloads.Around) -> None:
    kind = str(source.value["kind"])
    title = f"{kind} {_name(source.value)}"
    if _is_template(source.value):
        outcome.refused.append(Refused(title, "a template of Helm: write it out with `helm template` first"))
        return
    try:
        draft = workloads.translate(Section(source.value), kind, around)
        if draft is not None and not draft.name:
            raise ForeignError("metadata.name: is required")
    except NotImported as error:
        outcome.refused.append(Refused(title, str(error)))
        return
    if draft is not None:
        outcome.drafts.append(draft)
    else:
        images = ", ".join(each for each in workloads.images(Section(source.value), kind) if each)
        outcome.notes.append(
            Note(source.where, f"passed over {title}: runs no server that is known ({images or 'no image'})")
        )


def _name(value: Any) -> str:
    metadata = value.get("metadata") if isinstance(value, dict) else None
    return str(metadata.get("name")) if isinstance(metadata, dict) and metadata.get("name") else ""


def _is_template(value: Any) -> bool:
    """Whether a document has a text of Helm's in it."""
    if isinstance(value, dict):
        return any(_is_template(each) for pair in value.items() for each in pair)
    if isinstance(value, list):
        return any(_is_template(each) for each in value)
    return isinstance(value, str) and _TEMPLATE.search(value) is not None


def _one(outcome: Outcome, source: Source, translate: Callable[[Section], Draft]) -> None:
    try:
        draft = translate(Section(source.value))
        if not draft.name:
            raise ForeignError("metadata.name: is required")
        outcome.drafts.append(draft)
    except NotImported as error:
        title = f"{source.value['kind']} {_name(source.value)}" if "kind" in source.value else source.where
        outcome.refused.append(Refused(title, str(error)))


def _defaults(draft: Draft) -> None:
    """Say where a default of ours is much less than the engine's own, and leave out images that are too old."""
    _leave_out_old_image(draft)
    if draft.get("engine.name") == "vllm" and draft.get("limits.concurrentRequests") is None:
        draft.say(
            "limits.concurrentRequests", "16 unless it is set; vLLM's own --max-num-seqs is 256 or more: raise it"
        )


def _leave_out_old_image(draft: Draft) -> None:
    image, engine = draft.get("engine.image"), draft.get("engine.name")
    found = _RELEASE.search(image) if isinstance(image, str) else None
    if found is None or engine not in _OLDEST:
        return
    version = tuple(int(part) for part in found[1].split("."))
    if version < _OLDEST[engine]:
        oldest = ".".join(map(str, _OLDEST[engine]))
        draft.lose(
            f"engine.image ({image})", f"older than {oldest}, from which on it is served: the installation's is taken"
        )
        del draft.spec["engine"]["image"]


def _check(outcome: Outcome) -> None:
    """Leave out what breaks a rule of ours: it can't be applied, and the rule says why."""
    good = []
    for draft in outcome.drafts:
        try:
            parse_model_deployment(document_of(draft))
            good.append(draft)
        except InvalidResource as error:
            outcome.refused.append(Refused(draft.title, "; ".join(map(str, error.problems))))
    outcome.drafts = good


def _skipped(source: Source, targets: Collection[tuple[str, str]]) -> list[Note]:
    value = source.value
    if scaling.scaled_by(value) in targets:
        return []
    if (catalog := catalog_in(value)) is not None:
        return [Note(f"{source.where}: catalog", f"{catalog.off} of its models aren't enabled")] if catalog.off else []
    if _profiles(source) or _configs(source) or _runtimes(source):
        return []
    kind = value.get("kind") if isinstance(value, dict) else None
    why = f": {_ABOUT_KINDS[kind]}" if isinstance(kind, str) and kind in _ABOUT_KINDS else ""
    return [Note(source.where, f"skipped {kind or 'a document of no kind that is known'}{why}")]


def _profiles(source: Source) -> dict[str, Any]:
    """Resource profiles of KubeAI, from the chart's values or from the ConfigMap that they become."""
    value = source.value
    if isinstance(value, dict) and value.get("kind") == "ConfigMap" and isinstance(value.get("data"), dict):
        value = _inner(source, value["data"].get("system.yaml"))
    return kubeai.profiles_in(value)


def _runtimes(source: Source) -> dict[str, Any]:
    return kserve_runtimes.runtimes_in(source.value, kserve.API_GROUP)


def _configs(source: Source) -> dict[str, Any]:
    """The inference configuration of KAITO in a ConfigMap, by the ConfigMap's name."""
    value = source.value
    if not isinstance(value, dict) or value.get("kind") != "ConfigMap":
        return {}
    metadata = value.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    config = _inner(source, kaito.config_in(value))
    return {str(name): config} if config is not None else {}


def _inner(source: Source, text: Any) -> Any:
    """YAML inside of a ConfigMap; None if there is none."""
    if not isinstance(text, str):
        return None
    try:
        return next(load_yaml(text), None)
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise ForeignError(f"{source.where}: the YAML in its data can't be read: {problem}") from None
