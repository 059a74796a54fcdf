"""Keys in the engine: a question isn't kept waiting by another key, answers stay the same, all time is accounted."""

import time

import pytest
import torch
from ams_pod.engines.port import Prepared, Sampling
from ams_pod.shares import Share
from fakehub import checkpoints
from test_pod.engine_harness import Driver, Outcome, forward_of, load_model, prompts, reference

BUSY, CHAT, THIRD = Share("busy"), Share("chat"), Share("third")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    return checkpoints.make("llama", tmp_path_factory.mktemp("fair") / "llama")


class Keyed(Driver):
    def ask(self, ids, new, share, **sampling):
        outcome = Outcome()
        ticket = self.engine.submit(Prepared(list(ids)), Sampling(new, ignore_eos=True, **sampling), outcome, share)
        return ticket, outcome


def accounted(driver, tickets) -> None:
    counted = driver.engine.counters.busy_seconds + driver.engine.counters.tower_seconds
    assert sum(ticket.compute_seconds for ticket in tickets) == pytest.approx(counted, rel=0.01)


def served_much(driver, share=BUSY) -> None:
    """As if the key had been served for a long time."""
    driver.engine._shares.charge(share, 1000.0)
    driver.engine._shares.charge(share, 1.0)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_greedy_tokens_are_the_same_whatever_other_keys_do(folder, kind) -> None:
    model = load_model(folder)
    wanted = prompts(12, longest=200)
    expected = [reference(model, ids, 12) for ids in wanted]
    driver = Keyed(forward_of(kind, model, 3, 400))
    served_much(driver)
    asked = []
    for index, ids in enumerate(wanted):
        asked.append(driver.ask(ids, 12, (BUSY, BUSY, CHAT, THIRD)[index % 4]))
        for _ in range(index % 3):
            driver.engine.step()
    driver.run()
    assert [outcome.tokens for _, outcome in asked] == expected
    accounted(driver, [ticket for ticket, _ in asked])


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_a_question_of_another_key_passes_long_prompts_that_hold_all_slots(folder, kind) -> None:
    driver = Keyed(forward_of(kind, load_model(folder), 2, 700))
    long = [driver.ask(ids, 40, BUSY) for ids in [[7] * 600] * 6]
    for _ in range(12):
        driver.engine.step()
    served_much(driver)
    _, question = driver.ask([8, 9, 10], 1, CHAT)
    steps = 0
    while not question.finish:
        driver.engine.step()
        steps += 1
    assert steps <= 2
    assert sum(bool(outcome.finish) for _, outcome in long) < 6
    driver.run()


def test_a_question_is_read_within_a_step_of_a_key_that_was_served_more(folder) -> None:
    model = load_model(folder)
    expected = [reference(model, ids, 6) for ids in ([7] * 300, [8, 9, 10])]
    driver = Keyed(forward_of("flat", model, 2, 400))
    served_much(driver)
    first, long = driver.ask([7] * 300, 6, BUSY)
    asked = []

    def interrupt() -> None:
        if not asked:
            asked.append(driver.ask([8, 9, 10], 6, CHAT))
        driver.engine._between_layers()
        if len(asked[0][1].tokens) and not within:
            within.append(len(long.tokens))

    within: list[int] = []
    driver.engine._forward.between = interrupt
    driver.engine.step()
    assert within == [0], "the question's first token comes before the step ends"
    driver.run()
    assert [long.tokens, asked[0][1].tokens] == expected
    accounted(driver, [first, asked[0][0]])


def test_what_fails_within_a_step_is_read_again_by_one_of_its_own(folder) -> None:
    model = load_model(folder)
    expected = [reference(model, ids, 6) for ids in ([7] * 200, [8, 9, 10])]
    driver = Keyed(forward_of("flat", model, 2, 400))
    served_much(driver)
    _, long = driver.ask([7] * 200, 6, BUSY)
    step, failed, asked = driver.engine._forward.step, [], []

    def fails_once(batch):
        if driver.engine._nested_seconds is None and not failed:
            failed.append(1)
            raise RuntimeError("within a step")
        return step(batch)

    def interrupt() -> None:
        if not asked:
            asked.append(driver.ask([8, 9, 10], 6, CHAT))
        driver.engine._between_layers()

    driver.engine._forward.step = fails_once
    driver.engine._forward.between = interrupt
    driver.run()
    assert failed
    assert [long.tokens, asked[0][1].tokens] == expected


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_a_row_that_makes_way_publishes_each_token_once_and_ends_the_same(folder, kind) -> None:
    model = load_model(folder)
    wanted = prompts(4, longest=80)
    expected = [reference(model, ids, 30) for ids in wanted]
    driver = Keyed(forward_of(kind, model, 2, 400))
    driver.engine._forward.spare_rows = 0
    rows = [driver.ask(ids, 30, BUSY) for ids in wanted[:2]]
    for _ in range(10):
        driver.engine.step()
    served_much(driver)
    driver.engine._planner.pace.seconds_per_token = 0.0001
    driver.engine._planner._redone_allowance = 1.0
    others = [driver.ask(ids, 30, share) for ids, share in zip(wanted[2:], (CHAT, THIRD), strict=True)]
    driver.run()
    assert driver.engine.counters.set_aside >= 1
    assert [outcome.tokens for _, outcome in (*rows, *others)] == expected
    accounted(driver, [ticket for ticket, _ in (*rows, *others)])


def test_no_more_is_computed_twice_than_allowed(folder) -> None:
    driver = Keyed(forward_of("flat", load_model(folder), 2, 400))
    driver.engine._forward.spare_rows = 0
    driver.ask([7] * 100, 30, BUSY)
    driver.ask([7] * 100, 30, BUSY)
    for _ in range(6):
        driver.engine.step()
    served_much(driver)
    driver.engine._planner._redone_allowance = 0.0
    driver.engine._planner.pace.seconds_per_token = 1.0
    driver.ask([8, 9], 2, CHAT)
    driver.run()
    assert driver.engine.counters.set_aside == 0


def test_cancelled_and_failed_requests_are_accounted(folder, monkeypatch) -> None:
    driver = Keyed(forward_of("flat", load_model(folder), 3, 300))
    tickets = [driver.ask(ids, 20, (BUSY, CHAT)[index % 2])[0] for index, ids in enumerate(prompts(10, longest=150))]
    step, count = driver.engine._forward.step, [0]

    def out_of_memory_at_times(batch):
        count[0] += 1
        logits = step(batch)
        if count[0] in (3, 9, 14):
            raise torch.OutOfMemoryError("out of memory")
        if count[0] == 20:
            raise RuntimeError("broken")
        return logits

    monkeypatch.setattr(driver.engine._forward, "step", out_of_memory_at_times)
    for index in range(200):
        if not driver.engine.step():
            break
        if index in (4, 8):
            driver.engine.cancel(tickets[index])
    driver.run()
    assert sum(driver.engine.counters.out_of_memory.values()) >= 3
    accounted(driver, tickets)


def test_a_request_knows_what_it_waited_for(folder) -> None:
    driver = Keyed(forward_of("flat", load_model(folder), 1, 400))
    driver.engine._forward.spare_rows = 0
    first, _ = driver.ask([7] * 300, 4, BUSY)
    second, _ = driver.ask([7] * 20, 4, BUSY)
    asked = time.monotonic()
    driver.run()
    assert set(first.waits.seconds) == {"step", "reading"}
    assert {"step", "reading"} < set(second.waits.seconds)
    assert 0 < sum(second.waits.seconds.values()) <= time.monotonic() - asked + 0.5
