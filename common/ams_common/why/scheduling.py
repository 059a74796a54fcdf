"""Why no node takes a pod: by the scheduler's own message, and by what each node has."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ams_common.quantity import format_bytes, parse_quantity
from ams_common.why.story import NodeAccount

_COUNTED = re.compile(r"(\d+) (.+?)(?=, \d+ |\.\s|\.$|$)")
_PREEMPTION = re.compile(r"\s*(no new claims to deallocate, )?preemption:.*", re.S)


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What a node has: `allocatable` and `used` by resource, in the units of Kubernetes' quantities."""

    name: str
    allocatable: Mapping[str, str] = field(default_factory=dict)
    used: Mapping[str, float] = field(default_factory=dict)
    taints: tuple[str, ...] = ()  # as `key=value:Effect`, of those that the pod doesn't tolerate
    unschedulable: bool = False
    selected: bool = True  # whether node selector and affinity let the pod there


def scheduler_says(message: str) -> list[str]:
    """`1 Insufficient memory`, of `0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint …`.

    Empty for a message of another form.
    """
    _, found, rest = _PREEMPTION.sub("", message).partition("nodes are available:")
    if not found:
        return []
    return [f"{number} {what.strip().rstrip('.')}" for number, what in _COUNTED.findall(rest.strip())][:20]


def node_accounts(offers: Iterable[NodeOffer], asked: Mapping[str, str]) -> list[NodeAccount]:
    """What each node lacks for a pod that asks for so much; nodes that lack nothing have no entries."""
    return [NodeAccount(node=offer.name, lacks=_lacks(offer, asked)) for offer in offers]


def _lacks(offer: NodeOffer, asked: Mapping[str, str]) -> list[str]:
    found = []
    if offer.unschedulable:
        found.append("it is cordoned (kubectl uncordon)")
    if not offer.selected:
        found.append("its labels don't match the pod's node selector or affinity")
    found += [f"its taint {taint} isn't tolerated" for taint in offer.taints]
    for resource, wanted in asked.items():
        needs, has = _quantity(wanted), _quantity(offer.allocatable.get(resource, "0"))
        free = has - offer.used.get(resource, 0.0)
        if needs > free:
            words = f"{_said(resource, needs)} of {resource} asked for, {_said(resource, max(free, 0.0))} free"
            found.append(f"{words} of {_said(resource, has)}")
    return found


def _quantity(text: str) -> float:
    try:
        return float(parse_quantity(text))
    except ValueError:
        return 0.0


def _said(resource: str, amount: float) -> str:
    return format_bytes(int(amount)) if resource in ("memory", "ephemeral-storage") else f"{amount:g}"
