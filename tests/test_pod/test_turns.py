"""Whose prompts a step reads, whose rows it leaves out, who makes way; and how a step's tokens go round the keys."""

from dataclasses import dataclass

import pytest
from ams_pod.engines.builtin.scheduler.schedule import share_among
from ams_pod.engines.builtin.scheduler.turns import Places, Turn, choose, makes_way
from ams_pod.shares import FairShares, Share

BUSY, CHAT = Share("busy"), Share("chat")


@dataclass(frozen=True)
class Prompt:
    name: str
    share: Share
    cost: float = 0.0


def busy(*names: str) -> list[Prompt]:
    return [Prompt(name, BUSY) for name in names]


def chat(*names: str) -> list[Prompt]:
    return [Prompt(name, CHAT) for name in names]


def after(seconds: dict[Share, float]) -> FairShares:
    """Keys at these virtual times."""
    fair = FairShares()
    for share, served in sorted(seconds.items(), key=lambda each: each[1]):
        fair.charge(share, served - fair.time(share))
    return fair


def turn(fair, begun=(), waiting=(), running=(), rows=4, spare=1, put_off=True) -> Turn[Prompt]:
    holding = [each.share for each in (*begun, *running)]
    return choose(
        fair, lambda each: each.share, begun=begun, waiting=waiting, running=running,
        places=Places(rows, spare, holding, len(holding)), may_put_off=put_off,
    )  # fmt: skip


def names(prompts) -> list[list[str]]:
    return [[each.name for each in group] for group in prompts]


SERVED = {BUSY: 100.0, CHAT: 99.0}


def test_a_question_of_a_key_that_is_behind_is_read_alone_and_the_others_rows_wait() -> None:
    found = turn(after(SERVED), busy("b1"), [*busy("b2"), *chat("c1")], busy("r1"))
    assert (names(found.prompts), found.decoding, found.lead) == ([["c1"]], [], CHAT)


def test_its_own_rows_go_on_and_rows_arent_left_out_for_ever() -> None:
    fair = after(SERVED)
    running = [*busy("r1"), *chat("r2")]
    assert [each.name for each in turn(fair, busy("b1"), chat("c1"), running).decoding] == ["r2"]
    assert [each.name for each in turn(fair, busy("b1"), chat("c1"), running, put_off=False).decoding] == ["r1", "r2"]


def test_keys_that_were_served_alike_share_a_step_and_nobody_waits() -> None:
    found = turn(after({BUSY: 100.0, CHAT: 99.9}), busy("b1"), chat("c1"), busy("r1"))
    assert names(found.prompts) == [["c1"], ["b1"]]
    assert [each.name for each in found.decoding] == ["r1"]


def test_one_key_is_as_before() -> None:
    found = turn(after({BUSY: 9.0}), busy("b1"), busy("b2", "b3", "b4"), busy("r1", "r2"))
    assert (names(found.prompts), len(found.decoding), found.shut_out) == ([["b1", "b2"]], 2, None)


def test_where_nothing_is_to_be_read_all_rows_go_on() -> None:
    found = turn(after(SERVED), running=[*busy("r1"), *chat("r2")])
    assert (len(found.decoding), found.prompts, found.lead) == (2, [], None)


def test_the_spare_slot_is_for_a_key_that_holds_none() -> None:
    fair = after(SERVED)
    full = busy("r1", "r2", "r3", "r4")
    assert names(turn(fair, (), chat("c1", "c2"), full).prompts) == [["c1"]]
    assert names(turn(fair, (), busy("b1"), full).prompts) == []
    assert names(turn(fair, (), chat("c2"), [*full[:3], *chat("c1"), *busy("r5")]).prompts) == []


def test_a_key_that_finds_no_slot_is_shut_out_and_holds_nobody_up() -> None:
    found = turn(after(SERVED), busy("b1"), chat("c1"), busy("r1", "r2", "r3"), spare=0)
    assert (names(found.prompts), len(found.decoding)) == ([["b1"]], 3)
    assert (found.lead, found.shut_out) == (BUSY, CHAT)


@pytest.mark.parametrize(
    ("rows", "asking", "allowance", "victim"),
    [
        ([Prompt("a", BUSY, 3.0), Prompt("b", BUSY, 1.0)], CHAT, 5.0, "b"),  # the cheapest to read again
        ([Prompt("a", BUSY, 3.0), Prompt("b", BUSY, 1.0)], CHAT, 0.5, None),  # too dear by now
        ([Prompt("a", BUSY, 1.0)], CHAT, 5.0, None),  # it holds but one
        ([Prompt("a", CHAT, 1.0), Prompt("b", CHAT, 1.0)], BUSY, 5.0, None),  # who was served less keeps its slots
        ([Prompt("a", BUSY, 1.0), Prompt("b", BUSY, 1.0)], BUSY, 5.0, None),
    ],
)
def test_who_makes_way(rows: list[Prompt], asking: Share, allowance: float, victim: str | None) -> None:
    found = makes_way(
        after(SERVED), lambda each: each.share, lambda each: each.cost, asking, rows, allowance
    )  # fmt: skip
    assert (found.name if found is not None else None) == victim


@pytest.mark.parametrize(
    ("groups", "budget", "taken"),
    [
        ([[50], [1000]], 128, [[50], [78]]),
        ([[500], [1000]], 128, [[128], [0]]),
        ([[1000, 10]], 128, [[118, 10]]),  # within a key a question doesn't wait for a book
        ([[1000, 10], [5]], 128, [[118, 10], [0]]),
        ([[], [30]], 128, [[], [30]]),
        ([], 128, []),
    ],
)
def test_what_one_key_leaves_of_a_step_is_the_next_ones(groups, budget, taken) -> None:
    assert share_among(groups, budget) == taken
