"""When pods that run get a new template for no change of their resource: of a new image, or a new operator.

Their template stays as it is until the model's turn comes; a few models at a time are renewed, so that an upgrade
doesn't start all of them anew at once, and a version that doesn't start stops where it began.
"""

from typing import Literal

from ams_common import labels

from ams_operator.decide.children.common import ObjectBody
from ams_operator.decide.workload import Workload, without_template

Renewal = Literal["none", "waits", "goes on"]
"""`waits`: running pods are of another template than the operator would give them now. `goes on`: they are replaced."""


def judge_renewal(present: Workload | None, desired: ObjectBody | None, *, granted: bool) -> Renewal:
    """`desired` is the workload with today's template; `granted`: it is this model's turn."""
    if present is None or desired is None:
        return "none"
    wanted, has = desired["metadata"]["annotations"], present.metadata.annotations
    if has.get(labels.TEMPLATE) == wanted[labels.TEMPLATE]:
        return "goes on" if granted and not present.complete else "none"
    runs = bool(present.asked or present.replicas)
    same = has.get(labels.SPEC, wanted[labels.SPEC]) == wanted[labels.SPEC]
    if not (runs and same and desired["spec"]["replicas"]):
        return "none"  # nobody notices, or somebody asked for it
    return "goes on" if granted else "waits"


def kept(desired: ObjectBody, present: Workload) -> ObjectBody:
    """The workload without its template, which is to stay; its annotations tell of the one that it has."""
    has = present.metadata.annotations
    notes = {name: has[name] for name in (labels.TEMPLATE, labels.SPEC) if name in has}
    others = desired["metadata"]["annotations"].items()
    annotations = {name: value for name, value in others if name not in (labels.TEMPLATE, labels.SPEC, labels.APPLIED)}
    return {
        **desired,
        "metadata": {**desired["metadata"], "annotations": {**annotations, **notes}},
        "spec": without_template(desired),
    }


class Renewals:
    """Whose turn it is. Models without requests come first, then who has waited longest. Times are in seconds.

    A model has its turn until its pods are complete: one whose new pods don't start keeps it, and nobody follows.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: dict[str, float] = {}  # since when
        self._renewed: set[str] = set()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def renewed(self) -> frozenset[str]:
        return frozenset(self._renewed)

    def has_turn(self, key: str) -> bool:
        return key in self._renewed

    def wait(self, key: str, now: float) -> float | None:
        """Queue up; in how many seconds to ask `choose`, None where that is for others to do when their turn ends."""
        self._waiting.setdefault(key, now)
        if len(self._renewed) >= self._most:
            return None
        return max(0.0, min(self._waiting.values()) + GATHER_SECONDS - now)

    def choose(self, busy: "set[str]", now: float) -> list[str]:
        """Whose turn begins now. Who came first waits a moment for others: of them all, idle ones are to begin."""
        if not self._waiting or min(self._waiting.values()) + GATHER_SECONDS > now:
            return []
        order = sorted(self._waiting, key=lambda key: (key in busy, self._waiting[key]))
        chosen = order[: max(0, self._most - len(self._renewed))]
        for key in chosen:
            del self._waiting[key]
            self._renewed.add(key)
        return chosen

    def end(self, key: str) -> bool:
        """The model needs no turn, or its turn is over; True if somebody else may begin."""
        self._waiting.pop(key, None)
        had = key in self._renewed
        self._renewed.discard(key)
        return had and bool(self._waiting)


GATHER_SECONDS = 5.0
