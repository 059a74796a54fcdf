"""Schemas of core/v1 objects that are passed on as they are.

Every level of them is named, so that the API server drops what isn't there: an object of thousands of levels, which a
schema of unknown fields takes, can't be read by all who list these resources.
"""

from typing import Any, Final

Schema = dict[str, Any]


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Schema = {"type": "string"}
_TEXTS = _list(_TEXT)
_FLAG: Schema = {"type": "boolean"}
_WEIGHT: Schema = {"type": "integer", "format": "int32"}
_QUANTITY: Schema = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}

_REQUIREMENTS = _list(_object(key=_TEXT, operator=_TEXT, values=_TEXTS))
_NODE_TERM = _object(matchExpressions=_REQUIREMENTS, matchFields=_REQUIREMENTS)
_LABELS = _object(
    matchLabels={"type": "object", "additionalProperties": _TEXT},
    matchExpressions=_REQUIREMENTS,
)
_POD_TERM = _object(
    labelSelector=_LABELS,
    matchLabelKeys=_TEXTS,
    mismatchLabelKeys=_TEXTS,
    namespaceSelector=_LABELS,
    namespaces=_TEXTS,
    topologyKey=_TEXT,
)
_PODS = _object(
    requiredDuringSchedulingIgnoredDuringExecution=_list(_POD_TERM),
    preferredDuringSchedulingIgnoredDuringExecution=_list(_object(weight=_WEIGHT, podAffinityTerm=_POD_TERM)),
)

AFFINITY: Final = _object(
    nodeAffinity=_object(
        requiredDuringSchedulingIgnoredDuringExecution=_object(nodeSelectorTerms=_list(_NODE_TERM)),
        preferredDuringSchedulingIgnoredDuringExecution=_list(_object(weight=_WEIGHT, preference=_NODE_TERM)),
    ),
    podAffinity=_PODS,
    podAntiAffinity=_PODS,
)

_KEY = _object(name=_TEXT, key=_TEXT, optional=_FLAG)
ENV_VAR_SOURCE: Final = _object(
    secretKeyRef=_KEY,
    configMapKeyRef=_KEY,
    fieldRef=_object(apiVersion=_TEXT, fieldPath=_TEXT),
    resourceFieldRef=_object(containerName=_TEXT, resource=_TEXT, divisor=_QUANTITY),
    fileKeyRef=_object(volumeName=_TEXT, path=_TEXT, key=_TEXT, optional=_FLAG),
)

POD_RESOURCE_CLAIM: Final = _object(name=_TEXT, resourceClaimName=_TEXT, resourceClaimTemplateName=_TEXT)
