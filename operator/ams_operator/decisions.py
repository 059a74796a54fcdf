"""What the operator decided about each model lately, and from what: for whoever asks why. Bounded, in memory only."""

from collections import OrderedDict, deque

from ams_common.printable import printable
from ams_common.timeline import Facts, bounded
from ams_common.why.story import Decision

_MOST_MODELS = 5000
_MOST_OF_A_MODEL = 40
_LONGEST = 1000


class DecisionBook:
    """The same decision again is counted up, and has its newest facts."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, deque[Decision]] = OrderedDict()

    def note(self, key: str, kind: str, sentence: str, now: float, facts: Facts | None = None) -> None:
        """`key` is `namespace/name`, `now` Unix time."""
        kept = self._models.pop(key, None)
        if kept is None:
            kept = deque(maxlen=_MOST_OF_A_MODEL)
        self._models[key] = kept
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        sentence = printable(sentence, _LONGEST)
        known = next((each for each in kept if each.kind == kind and each.sentence == sentence), None)
        if known is not None:
            kept.remove(known)
        count = known.count + 1 if known is not None else 1
        kept.append(Decision(time=now, kind=kind, sentence=sentence, count=count, facts=bounded(facts or {})))

    def of(self, key: str) -> list[Decision]:
        """The newest first."""
        return list(reversed(self._models.get(key, ())))

    def forget(self, key: str) -> None:
        self._models.pop(key, None)
