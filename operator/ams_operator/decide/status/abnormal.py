"""Conditions for tools that know no other ones of ours: kstatus (Flux, kpt, cli-utils) reads these two of any resource.

Each is there only while it is True. Without one of them kstatus goes by Ready.
"""

from collections.abc import Mapping

from ams_common.reasons import Reason, row_of
from ams_common.resource.conditions import Abnormal, ConditionType

from ams_operator.decide.status.outcome import Outcome

_STALLED = (Reason.STALLED, Reason.DEADLINE_EXCEEDED, Reason.GOLDEN_PROMPT_FAILED)
_AT_REST = (Reason.SUSPENDED, Reason.STOPPED)


def abnormal(outcomes: Mapping[ConditionType, Outcome]) -> dict[Abnormal, Outcome]:
    """`Stalled`: somebody has to do something. `Reconciling`: it is on its way to what was asked for."""
    ready, progressing = outcomes["Ready"], outcomes["Progressing"]
    if ready.status == "False" and not _waits(ready.reason):
        return {"Stalled": Outcome("True", ready.reason, ready.message)}
    if ready.reason in _AT_REST:
        return {}
    if progressing.reason in _STALLED:
        return {"Stalled": Outcome("True", progressing.reason, progressing.message)}
    under_way = ready if ready.status == "False" else progressing
    if ready.status == "False" or progressing.reason == Reason.ROLLING_OUT:
        return {"Reconciling": Outcome("True", under_way.reason, under_way.message)}
    return {}


def _waits(reason: str) -> bool:
    row = row_of(reason)
    return row is not None and row.waiting_helps
