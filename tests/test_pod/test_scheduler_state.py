"""What the scheduler keeps between steps: slots without holes, the pace of prompts; and who is not let in."""

from types import SimpleNamespace
from typing import Any

import pytest
from ams_pod.engines.builtin.model.batch import EqualSlots
from ams_pod.engines.builtin.scheduler.admission import new_tokens_for
from ams_pod.engines.builtin.scheduler.schedule import Pace
from ams_pod.engines.builtin.scheduler.slots import Slots
from ams_pod.engines.port import EngineRefusal
from ams_pod.shares import EVERYBODY


class Moves(EqualSlots):
    """A forward that only notes which rows were moved."""

    max_rows, length = 4, 100

    def __init__(self) -> None:
        self.compacted: list[tuple[list[int], list[int]]] = []

    def compact(self, order: list[int], lengths: list[int]) -> None:
        self.compacted.append((order, lengths))


def row(name: str, *, reading: bool = False, at: float = 0.0, cached: int = 0, done: bool = False) -> Any:
    ticket = SimpleNamespace(submitted_at=at, sampling=SimpleNamespace(max_new_tokens=10), share=EVERYBODY)
    return SimpleNamespace(
        name=name, reading=reading, ticket=ticket, cached=cached, done=done, slot=-1, ids=[1, 2], tokens=[]
    )


def filled(*rows: Any) -> tuple[Slots, Moves]:
    forward = Moves()
    slots = Slots(forward)  # type: ignore[arg-type]
    for each in rows:
        slots.take(each)
    return slots, forward


def names(rows: list[Any]) -> list[str]:
    return [each.name for each in rows]


def test_rows_take_the_next_slot() -> None:
    slots, _ = filled(a := row("a"), b := row("b"))
    assert (a.slot, b.slot, len(slots), slots.free) == (0, 1, 2, 2)
    assert (slots.at(0), slots.at(1)) == (a, b)


def test_who_reads_and_who_runs() -> None:
    slots, _ = filled(
        row("late", reading=True, at=2.0), row("runs"), row("early", reading=True, at=1.0), row("runs too")
    )
    assert names(slots.reading()) == ["early", "late"]
    assert names(slots.running()) == ["runs", "runs too"]
    assert slots.free == 0


def test_a_hole_is_filled_by_the_last_row_and_the_cache_is_moved_with_it() -> None:
    slots, forward = filled(row("a", cached=5), b := row("b", cached=6), row("c", cached=7, done=True), d := row("d"))
    slots.vacate(b)
    assert names(slots.rows()) == ["a", "c", "d"]
    with pytest.raises(KeyError):
        slots.at(1)
    slots.close_ranks()
    assert names(slots.rows()) == ["a", "d"]
    assert (d.slot, slots.at(1)) == (1, d)
    assert forward.compacted == [([0, 3], [5, 0])]


def test_nothing_moves_where_nobody_leaves() -> None:
    slots, forward = filled(row("a"), row("b"))
    slots.close_ranks()
    assert forward.compacted == []


def test_rows_that_a_failed_move_loses_can_be_cleared() -> None:
    slots, _ = filled(row("a"), row("b"))
    slots.clear()
    assert (len(slots), slots.free) == (0, 4)


def test_the_cost_of_a_token_is_averaged_and_running_rows_are_taken_off() -> None:
    pace = Pace()
    assert pace.seconds_per_token is None
    pace.note(0, True, 0.5)
    pace.note(100, True, 1.5)
    assert pace.seconds_per_token == pytest.approx(0.01)
    pace.note(100, False, 2.0)
    assert pace.seconds_per_token == pytest.approx(0.7 * 0.01 + 0.3 * 0.02)


def test_before_a_step_without_a_prompt_nothing_is_taken_off() -> None:
    pace = Pace()
    pace.note(100, True, 1.0)
    assert pace.seconds_per_token == pytest.approx(0.01)


def test_few_tokens_tell_nothing() -> None:
    pace = Pace()
    pace.note(15, False, 9.0)
    assert pace.seconds_per_token is None
    pace.note(16, False, 1.6)
    assert pace.seconds_per_token == pytest.approx(0.1)


def test_a_step_that_was_faster_than_one_without_a_prompt_costs_nothing() -> None:
    pace = Pace()
    pace.note(0, True, 5.0)
    pace.note(100, True, 1.0)
    assert pace.seconds_per_token == 0.0


@pytest.mark.parametrize(
    ("prompt", "new", "room", "allowed"),
    [
        (99, 1, 1000, 1),
        (99, 500, 1000, 1),  # the answer ends with the context
        (100, 1, 1000, "context-length-exceeded"),
        (101, 1, 1000, "context-length-exceeded"),
        (60, 40, 1000, 40),
        (60, 39, 990, 39),
        (60, 40, 999, 39),  # with its memory
        (60, 500, 619, 1),
        (60, 500, 610, 1),
        (60, 500, 609, "out-of-memory"),
        (60, 1, 0, "out-of-memory"),
    ],
)
def test_how_much_of_an_answer_there_is_room_for(prompt: int, new: int, room: int, allowed: int | str) -> None:
    found = new_tokens_for(prompt, new, context_tokens=100, bytes_per_token=10, room=room)
    assert (found.kind if isinstance(found, EngineRefusal) else found) == allowed


def test_an_engine_that_keeps_no_cache_is_bounded_by_the_context_alone() -> None:
    assert new_tokens_for(60, 500, context_tokens=100, bytes_per_token=0, room=0) == 40


def test_a_refusal_has_the_numbers() -> None:
    refused = new_tokens_for(60, 500, context_tokens=100, bytes_per_token=1 << 20, room=1 << 20)
    assert isinstance(refused, EngineRefusal)
    assert (refused.limit, refused.given) == (1 << 20, 61 << 20)
    assert "60 tokens of prompt take 61.0 MiB of cache; 1.0 MiB are free with nothing else running." in str(refused)
    refused = new_tokens_for(100, 1, context_tokens=100, bytes_per_token=1, room=1)
    assert isinstance(refused, EngineRefusal)
    assert (refused.limit, refused.given) == (100, 100)
