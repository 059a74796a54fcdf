"""Phases and reasons: one table each, whole and without contradictions."""

from typing import get_args

import msgspec
import pytest
from ams_common.lifecycle import STAGES, Phase, stage_of
from ams_common.progress import Progress
from ams_common.reasons import ROWS, Reason, row_of
from ams_common.resource.conditions import ConditionType


def test_every_phase_has_a_stage_that_status_phase_can_say() -> None:
    assert [phase.title for phase in STAGES] == [
        "Pending",
        "Preflight",
        "Scheduling",
        "Starting",
        "Downloading",
        "Loading",
        "Ready",
        "Draining",
        "Idle",
        "Stopped",
        "Suspended",
        "Failed",
    ]
    assert all(phase.stage in STAGES for phase in Phase)
    assert all(stage_of(phase.title) is phase.stage for phase in Phase)
    assert stage_of("Levitating") is Phase.PENDING  # a newer operator's


def test_phases_travel_as_words() -> None:
    assert msgspec.json.decode(b'{"phase":"warming-up"}', type=Progress) == Progress(Phase.WARMING_UP)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"phase":"levitating"}', type=Progress)


def test_every_reason_has_a_row_and_every_condition_its_reasons() -> None:
    assert list(ROWS) == list(Reason)
    assert {row.condition for row in ROWS.values()} == set(get_args(ConditionType))
    for condition in get_args(ConditionType):
        statuses = {row.status for row in ROWS.values() if row.condition == condition}
        assert "True" in statuses, condition
    assert row_of("CrashLoop") is ROWS[Reason.CRASH_LOOP]
    assert row_of("TooMuchJoy") is None


@pytest.mark.parametrize("reason", Reason)
def test_a_row_doesn_t_contradict_itself(reason: Reason) -> None:
    row = ROWS[reason]
    assert not (row.fatal and row.waiting_helps)  # a request never waits in vain, and never leaves too early
    assert row.fatal is False or (row.status == "False" and row.severity == "Warning")
    assert row.phase.stage is row.phase
    assert (row.phase is Phase.FAILED) == (not row.waiting_helps)
    assert row.title[0].isupper()
    assert not row.title.endswith(".")
    assert row.help.endswith(".")
