"""KServe's `ServingRuntime` and `ClusterServingRuntime`: what an InferenceService that names one gets of it.

Arguments of the runtime come before those of the service, variables and resources of the service win, as in KServe's
MergeRuntimeContainers.
"""

import re
from collections.abc import Mapping
from typing import Any

from ams_cli.importing import kubernetes
from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft

KINDS = ("ServingRuntime", "ClusterServingRuntime")
CONTAINER = "kserve-container"

_NAME = re.compile(r"\{\{-?\s*\.Name\s*-?\}\}")
_OF_KSERVE = (
    "supportedModelFormats", "protocolVersions", "multiModel", "grpcEndpoint", "grpcDataEndpoint", "httpDataEndpoint",
    "disabled", "replicas", "builtInAdapter", "storageHelper",
)  # fmt: skip
_PROBES = ("name", "ports", "readinessProbe", "livenessProbe", "startupProbe", "lifecycle", "imagePullPolicy")


def runtimes_in(document: Any, group: str) -> dict[str, Any]:
    """A runtime's spec by its name; nothing of any other document."""
    if not isinstance(document, dict) or document.get("kind") not in KINDS:
        return {}
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    known = str(document.get("apiVersion", "")).partition("/")[0] == group and isinstance(document.get("spec"), dict)
    return {str(name): document["spec"]} if known and name else {}


def merged(draft: Draft, model: Mapping[str, Any], runtime: Any, where: str) -> dict[str, Any]:
    """The model's section with what the runtime adds. `where` is the runtime's, for what has no place."""
    spec = Section(runtime, where)
    spec.ignore(*_OF_KSERVE)
    found = spec.sections("containers")
    container = next((each for each in found if each.text("name") == CONTAINER), found[0] if found else Section({}))
    ours = Section(dict(model), "spec.predictor.model")
    names = {each.get("name") for each in ours.items("env") if isinstance(each, dict)}
    result = dict(model)
    result["args"] = [_NAME.sub(lambda _: draft.name, word) for word in container.texts("args")] + ours.texts("args")
    result["command"] = ours.texts("command") or container.texts("command")
    result["image"] = ours.text("image") or container.text("image")
    result["env"] = [
        each for each in container.items("env") if not (isinstance(each, dict) and each.get("name") in names)
    ] + ours.items("env")
    theirs, own = container.section("resources"), ours.section("resources")
    result["resources"] = {
        **ours.mapping("resources"),
        "limits": {**theirs.mapping("limits"), **own.mapping("limits")},
        "requests": {**theirs.mapping("requests"), **own.mapping("requests")},
    }
    kubernetes.pass_on(draft, spec)
    draft.set("podLabels", spec.mapping("labels"))
    kept = {key: each for key, each in spec.mapping("annotations").items() if not str(key).startswith("prometheus.io/")}
    draft.set("podAnnotations", kept)
    container.ignore(*_PROBES)
    draft.lose_all(container.left())
    for other in found:
        if other is not container:
            draft.lose(f"{other.path} ({other.text('name')})", "a container beside the model has no place")
    draft.lose_all(spec.left())
    return result
