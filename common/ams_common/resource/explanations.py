"""What `kubectl explain` says of fields that the resource takes over from Kubernetes, by the end of their path."""

from typing import Any

_TEXTS = {
    # of ours
    "goldenPrompts": "prompts whose answers decide whether a new version takes traffic",
    "goldenPrompts[*].prompt": "what the model is asked",
    "imagePullPolicy": "when the image is pulled: Always, IfNotPresent or Never",
    "imagePullSecrets": "Secrets that the image is pulled with",
    "imagePullSecrets[*].name": "name of a Secret in the resource's namespace",
    "nodeSelector": "labels that a node must have, to run this model's pods",
    "podAnnotations": "annotations of this model's pods, beside the operator's",
    "podLabels": "labels of this model's pods, beside the operator's",
    "priorityClassName": "priority of this model's pods, by the name of a PriorityClass",
    "runtimeClassName": "runtime of this model's pods, by the name of a RuntimeClass, as in nvidia",
    "serviceAccountName": "ServiceAccount of this model's pods; the operator makes one where none is named",
    # core/v1 EnvVar
    "env[*].name": "name of the variable",
    "env[*].value": "its value",
    "env[*].valueFrom": "where its value comes from, instead of value",
    "secretKeyRef": "a key of a Secret in the resource's namespace",
    "secretKeyRef.name": "name of the Secret",
    "configMapKeyRef": "a key of a ConfigMap in the resource's namespace",
    "configMapKeyRef.name": "name of the ConfigMap",
    "valueFrom.secretKeyRef.key": "its key",
    "configMapKeyRef.key": "its key",
    "optional": "whether the pod starts without it",
    "fieldRef": "a field of the pod",
    "fieldRef.apiVersion": "version of the API that the path belongs to; v1",
    "fieldRef.fieldPath": "path of the field, as in metadata.name",
    "resourceFieldRef": "a request or limit of a container",
    "resourceFieldRef.containerName": "name of the container",
    "resourceFieldRef.resource": "which one, as in limits.memory",
    "resourceFieldRef.divisor": "unit of the value, as in 1Mi",
    "fileKeyRef": "a variable in a file of a volume",
    "fileKeyRef.volumeName": "name of the volume",
    "fileKeyRef.path": "path of the file in the volume",
    "fileKeyRef.key": "name of the variable in the file",
    # core/v1 Toleration
    "tolerations": "taints of nodes that this model's pods put up with",
    "tolerations[*].key": "key of the taint; none: every taint",
    "tolerations[*].operator": "Exists, or Equal to value",
    "tolerations[*].value": "value of the taint",
    "tolerations[*].effect": "effect of the taint; none: every effect",
    "tolerations[*].tolerationSeconds": "how long it is put up with, for NoExecute",
    # core/v1 PodResourceClaim
    "claims[*].name": "name that the pod calls the claim by",
    "claims[*].resourceClaimName": "a ResourceClaim in the resource's namespace",
    "claims[*].resourceClaimTemplateName": "a ResourceClaimTemplate, from which each pod gets a claim of its own",
    # core/v1 Affinity
    "nodeAffinity": "which nodes are possible or better",
    "podAffinity": "which pods to be near",
    "podAntiAffinity": "which pods to keep away from",
    "requiredDuringSchedulingIgnoredDuringExecution": "what must hold where a pod is placed",
    "preferredDuringSchedulingIgnoredDuringExecution": "what should hold where a pod is placed",
    "nodeSelectorTerms": "one of them must match",
    "preference": "the term that should match",
    "podAffinityTerm": "the term that should match",
    "weight": "how much it counts, from 1 to 100",
    "labelSelector": "the pods that are meant",
    "namespaceSelector": "the namespaces that they are in, by labels",
    "namespaces": "the namespaces that they are in, by names",
    "topologyKey": "label of nodes that says what counts as near, as in kubernetes.io/hostname",
    "matchLabelKeys": "labels of the new pod that the others must share",
    "mismatchLabelKeys": "labels of the new pod that the others must not share",
    "matchLabels": "labels and their values",
    "matchExpressions": "conditions on labels",
    "matchFields": "conditions on fields of the node",
    "matchExpressions[*].key": "key of the label",
    "matchFields[*].key": "path of the field",
    "matchExpressions[*].operator": "In, NotIn, Exists, DoesNotExist, Gt or Lt",
    "matchFields[*].operator": "In, NotIn, Exists, DoesNotExist, Gt or Lt",
    "values": "the values that it is compared with",
    # status
    "status.observedGeneration": "generation of the resource that this status is about",
    "status.message": "what happens, or what is wrong, in a sentence",
    "status.replicas": "pods that there are",
    "status.readyReplicas": "pods that answer",
    "status.quantization": "precision of the weights that are served",
    "quantization.chosen": "none, 8bit or 4bit",
    "status.engine.name": "builtin, vllm, sglang, llamacpp or custom",
    "status.conditions": "what holds; Ready is the one to wait for",
    "conditions[*].type": "what it is about",
    "conditions[*].status": "True, False or Unknown",
    "conditions[*].reason": "why, in a word for programs",
    "conditions[*].message": "why, in a sentence",
    "conditions[*].lastTransitionTime": "since when its status is what it is",
    "conditions[*].observedGeneration": "generation of the resource that it is about",
    "model.family": "kind of model, which says how it is loaded and prompted",
    "model.modalities": "what it takes: text, image, audio, video",
    "model.architecture": "class of the model in its config.json",
    "model.weightsBytes": "size of the weights' files",
    "model.contextTokens": "tokens of prompt and answer together that the model was made for",
    "lock.files": "how many files there are",
}


def explain(schema: dict[str, Any], path: str) -> None:
    """Give every field in `schema`, that of `path`, a description where it has none."""
    for name, inner in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        if "description" not in inner and (text := _text(below)) is not None:
            inner["description"] = text
        explain(inner, below)
    if "items" in schema:
        explain(schema["items"], f"{path}[*]")


def _text(path: str) -> str | None:
    """By the longest end of the path that is in the table."""
    parts = path.split(".")
    return next((_TEXTS[end] for at in range(len(parts)) if (end := ".".join(parts[at:])) in _TEXTS), None)
