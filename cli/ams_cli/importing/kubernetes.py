"""What documents of Kubernetes have in common: metadata, and the fields of a pod that pass through as they are."""

from typing import Any

from ams_cli.importing.reading import Section
from ams_cli.importing.results import Draft

_TOOLS = (
    "kubectl.kubernetes.io/", "meta.helm.sh/", "helm.sh/", "argocd.argoproj.io/", "deployment.kubernetes.io/",
    "autoscaling.alpha.kubernetes.io/",
)  # fmt: skip
_OF_OTHERS = ("knative.dev", "istio.io", "knative.openshift.io")  # what they set there has no effect here
_MANAGED = ("app.kubernetes.io/managed-by", "helm.sh/chart")
_SERVERS_OWN = (
    "uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink", "ownerReferences",
    "finalizers", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName",
)  # fmt: skip
_PASSED_ON = (
    "nodeSelector", "tolerations", "affinity", "runtimeClassName", "priorityClassName", "imagePullSecrets",
    "serviceAccountName",
)  # fmt: skip
_DOWNLOADS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT")


def start(document: Section, platform: str, annotation_prefix: str) -> Draft:
    """A draft with the document's metadata. Annotations with the prefix are the platform's own: lost unless taken."""
    document.ignore("apiVersion", "kind", "status")
    metadata = document.section("metadata")
    metadata.ignore(*_SERVERS_OWN)
    name = metadata.text("name")
    draft = Draft(f"{platform} {name}", name)
    if namespace := metadata.text("namespace"):
        draft.metadata["namespace"] = namespace
    labels = {key: value for key, value in metadata.mapping("labels").items() if key not in _MANAGED}
    if labels:
        draft.metadata["labels"] = {str(key): str(value) for key, value in labels.items()}
    annotations = metadata.section("annotations")
    kept = {}
    for key in annotations.names():
        if key.startswith(_TOOLS):
            annotations.ignore(key)
        elif not key.partition("/")[0].endswith((annotation_prefix, *_OF_OTHERS)):
            kept[key] = annotations.text(key)
    if kept:
        draft.metadata["annotations"] = kept
    return draft


def pass_on(draft: Draft, pod: Section) -> None:
    """The fields of a pod that a ModelDeployment has too."""
    for name in _PASSED_ON:
        if name in pod:
            draft.set(name, _as_is(pod, name))


def environment(draft: Draft, variables: list[Any]) -> None:
    """Variables for the engine, but for the hub's token, which is the download's."""
    if draft.get("engine.name") in (None, "auto", "builtin"):
        draft.set("env", variables)
        return
    ours = [each for each in variables if isinstance(each, dict) and each.get("name") in _DOWNLOADS]
    draft.set("env", ours)
    draft.set("engine.env", [each for each in variables if each not in ours])


def _as_is(pod: Section, name: str) -> Any:
    match name:
        case "tolerations" | "imagePullSecrets":
            return pod.items(name)
        case "nodeSelector" | "affinity":
            return pod.mapping(name)
        case _:
            return pod.text(name)


def gpus_of(limits: dict[str, Any]) -> int:
    """How many GPUs of any vendor are asked for."""
    counts = [str(count) for name, count in limits.items() if str(name).endswith("/gpu")]
    return sum(int(count) for count in counts if count.isdecimal() and len(count) < 5)
