"""Whether the scheduler may put a model's pods on a node: nodeSelector, node affinity and taints. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from ams_common.engines.wishes import engine_resources
from ams_common.resource.core import Toleration
from ams_common.resource.spec import Spec

from ams_kube.objects import Node, Taint


def takes(node: Node, spec: Spec) -> bool:
    """Preferences and what other pods take are left out: they change while the model waits."""
    return not node.spec.unschedulable and selects(node, spec) and not untolerated(node, spec)


def selects(node: Node, spec: Spec) -> bool:
    """Whether nodeSelector and node affinity let pods there."""
    selected = all(node.metadata.labels.get(name) == value for name, value in spec.node_selector.items())
    return selected and _has_affinity(node, spec.affinity or {})


def untolerated(node: Node, spec: Spec) -> list[Taint]:
    """Taints that keep pods away."""
    return [taint for taint in node.spec.taints if not _tolerated(taint, spec)]


def _tolerated(taint: Taint, spec: Spec) -> bool:
    if taint.effect == "PreferNoSchedule":
        return True
    # A cluster with the admission plugin ExtendedResourceToleration adds this one to pods that ask for the device.
    if taint.key in engine_resources(spec).limits and "/" in taint.key:
        return True
    return any(_tolerates(toleration, taint) for toleration in spec.tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    if toleration.effect is not None and toleration.effect != taint.effect:
        return False
    if toleration.key is None:
        return toleration.operator == "Exists"
    if toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (toleration.value or "") == taint.value


def _has_affinity(node: Node, affinity: Mapping[str, Any]) -> bool:
    """By requiredDuringSchedulingIgnoredDuringExecution: one of its terms holds."""
    required = _mapping(_mapping(affinity.get("nodeAffinity")).get("requiredDuringSchedulingIgnoredDuringExecution"))
    if not required:
        return True
    return any(_term_holds(node, _mapping(term)) for term in _list(required.get("nodeSelectorTerms")))


def _term_holds(node: Node, term: Mapping[str, Any]) -> bool:
    labels, fields = _list(term.get("matchExpressions")), _list(term.get("matchFields"))
    if not labels and not fields:
        return False  # an empty term selects nothing
    return all(_holds(_mapping(each), node.metadata.labels) for each in labels) and all(
        _holds(_mapping(each), {"metadata.name": node.metadata.name}) for each in fields
    )


def _holds(requirement: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(str(requirement.get("key")))
    values = [str(each) for each in _list(requirement.get("values"))]
    match requirement.get("operator"):
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return _compared(value, values, 1)
        case "Lt":
            return _compared(value, values, -1)
    return False


def _compared(value: str | None, values: Iterable[str], sign: int) -> bool:
    """Both as whole numbers, as the scheduler reads them."""
    try:
        return value is not None and all((int(value) - int(bound)) * sign > 0 for bound in values)
    except ValueError:
        return False


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
