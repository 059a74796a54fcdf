"""What is kept of earlier prompts changes no answer, whatever happened to the requests that left it."""

import random

import pytest
import torch
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.prefix_tree import BLOCK
from ams_pod.engines.builtin.model.sampling import NotNumbers
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.scheduler import schedule
from ams_pod.engines.port import Prepared, Sampling
from engine_harness import Driver, Outcome, load_model, reference
from fakehub import checkpoints

pytestmark = pytest.mark.family("text")

ROWS, LENGTH = 4, 320


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("checkpoints") / "qwen3")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


def driver_of(folder, *, prefixes: int = 4096, cache: int | None = None) -> Driver:
    stack = find_stack(load_model(folder))
    return Driver(Decoder(stack, ROWS, LENGTH, cache_tokens=cache, prefix_tokens=prefixes))


def text(seed: int, length: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(5, 560) for _ in range(length)]


def ask(driver: Driver, ids: list[int], new: int = 8, salt: str = "", **sampling):
    outcome = Outcome()
    ticket = driver.engine.submit(Prepared(list(ids)), Sampling(new, **sampling), outcome, cache_salt=salt)
    return ticket, outcome


def test_the_next_turn_reads_only_what_is_new(folder, model):
    driver = driver_of(folder)
    first = text(1, 100)
    ticket, outcome = ask(driver, first, 40)
    driver.run()
    assert ticket.cached_tokens == 0
    assert outcome.tokens == reference(model, first, 40)
    second = [*first, *outcome.tokens, *text(2, 30)]
    read = driver.engine.counters.prefill_tokens
    ticket, outcome = ask(driver, second, 20)
    driver.run()
    kept = (100 + 39) // BLOCK * BLOCK  # the answer's last token was never fed
    assert ticket.cached_tokens == kept
    assert driver.engine.counters.prefill_tokens - read == len(second) - kept
    assert outcome.tokens == reference(model, second, 20)
    counters = driver.engine.counters
    assert (counters.prefix_queries, counters.prefix_hits) == (100 + len(second), kept)


def test_one_system_prompt_is_read_once_for_all_who_wait_behind_it(folder, model):
    driver = driver_of(folder)
    system = text(3, 200)
    asked = [ask(driver, [*system, *text(seed, 20)], 6) for seed in range(10, 20)]
    driver.run()
    for seed, (_, outcome) in zip(range(10, 20), asked, strict=True):
        assert outcome.tokens == reference(model, [*system, *text(seed, 20)], 6)
    assert [ticket.cached_tokens for ticket, _ in asked] == [0] + [192] * 9


def test_the_whole_prompt_again_still_reads_its_last_token(folder, model):
    driver = driver_of(folder)
    ids = text(4, 4 * BLOCK)
    ask(driver, ids)
    driver.run()
    ticket, outcome = ask(driver, ids)
    driver.run()
    assert ticket.cached_tokens == 3 * BLOCK
    assert outcome.tokens == reference(model, ids, 8)


def test_another_salt_finds_nothing(folder):
    driver = driver_of(folder)
    ids = text(5, 100)
    found = []
    for salt in ("mine", "yours", "mine"):
        ticket, _ = ask(driver, ids, salt=salt)
        driver.run()
        found.append(ticket.cached_tokens)
    assert found == [0, 0, 96]


def test_without_room_nothing_is_kept(folder, model):
    driver = driver_of(folder, prefixes=0)
    for _ in range(2):
        ticket, outcome = ask(driver, text(6, 100))
        driver.run()
        assert ticket.cached_tokens == 0
        assert outcome.tokens == reference(model, text(6, 100), 8)


def test_freeing_memory_forgets(folder):
    driver = driver_of(folder)
    ask(driver, text(7, 100))
    driver.run()
    driver.engine.free_memory()
    driver.run()
    ticket, _ = ask(driver, text(7, 100))
    driver.run()
    assert ticket.cached_tokens == 0


def test_where_memory_gets_short_it_forgets_before_anything_else(folder):
    stack = find_stack(load_model(folder))
    driver = Driver(Decoder(stack, ROWS, LENGTH, prefix_tokens=4096))
    short = False
    driver.engine._is_short = lambda: short
    ask(driver, text(7, 100))
    driver.run()
    assert driver.engine.prefix_tokens == 96
    short, driver.engine._looked_at = True, 0.0
    ticket, outcome = ask(driver, text(7, 100))
    driver.run()
    assert (ticket.cached_tokens, outcome.finish) == (0, "length")


def test_a_prompt_whose_probabilities_are_asked_for_is_read_as_a_whole(folder):
    driver = driver_of(folder)
    ask(driver, text(8, 100))
    driver.run()
    ticket, _ = ask(driver, text(8, 100), prompt_logprobs=1)
    driver.run()
    assert ticket.cached_tokens == 0


def test_a_cancelled_request_leaves_what_it_read(folder, model, monkeypatch):
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 32)
    driver = driver_of(folder)
    ids = text(9, 120)
    ticket, outcome = ask(driver, ids, 50)
    driver.engine.step()
    driver.engine.cancel(ticket)
    driver.run()
    assert outcome.finish == "cancelled"
    ticket, outcome = ask(driver, ids)
    driver.run()
    assert ticket.cached_tokens == 32
    assert outcome.tokens == reference(model, ids, 8)


def test_a_request_that_computed_no_numbers_leaves_nothing(folder, model, monkeypatch):
    driver = driver_of(folder)
    ids = text(10, 100)
    forward = driver.engine._forward
    step = forward.step
    monkeypatch.setattr(forward, "step", lambda batch: torch.full_like(step(batch), float("nan")))
    _, outcome = ask(driver, ids)
    driver.run()
    assert isinstance(outcome.error, NotNumbers)
    monkeypatch.undo()
    ticket, outcome = ask(driver, ids)
    driver.run()
    assert ticket.cached_tokens == 0
    assert outcome.tokens == reference(model, ids, 8)


def test_long_requests_and_short_ones_share_one_pool(folder, model):
    """Four rows of 320 tokens don't fit 640 at once: the newest are computed again, and no token is published twice."""
    driver = driver_of(folder, cache=640)
    wanted = [
        (text(20 + index, length), new)
        for index, (length, new) in enumerate([(30, 250), (40, 200), (90, 200), (20, 90)])
    ]
    outcomes = [ask(driver, ids, new)[1] for ids, new in wanted]
    driver.run()
    for (ids, new), outcome in zip(wanted, outcomes, strict=True):
        assert outcome.tokens == reference(model, ids, new)
    assert driver.engine.counters.preempted > 0
    forward = driver.engine._forward
    assert forward.free_tokens == 640 + forward.spare_tokens


@pytest.mark.parametrize("seed", range(12))
def test_random_interleavings_equal_recomputation(folder, model, monkeypatch, seed):
    """Conversations, cancellations, failing steps, memory that runs out and is freed: every whole answer is right."""
    chance = random.Random(seed)
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", chance.choice([24, 512]))
    driver = driver_of(folder, prefixes=chance.choice([160, 640, 4096]), cache=chance.choice([None, 640]))
    forward = driver.engine._forward
    step = forward.step
    fault: list[Exception] = []

    def failing(batch):
        if fault:
            raise fault.pop()
        return step(batch)

    monkeypatch.setattr(forward, "step", failing)
    chats = [text(100 + chance.randrange(3), chance.randrange(20, 90)) for _ in range(4)]
    asked = []
    for _ in range(90):
        match chance.choices(["ask", "step", "cancel", "fail", "memory", "free"], [8, 12, 1, 0.6, 0.6, 0.4])[0]:
            case "ask":
                at = chance.randrange(len(chats))
                new = chance.randrange(1, 25)
                ids = chats[at]
                asked.append((at, ids, new, *ask(driver, ids, new, chance.choice(["", "a"]))))
            case "step":
                for _ in range(chance.randrange(1, 12)):
                    driver.engine.step()
            case "cancel" if asked:
                driver.engine.cancel(chance.choice(asked)[3])
            case "fail":
                fault.append(RuntimeError("a step fails"))
            case "memory":
                fault.append(torch.OutOfMemoryError("memory runs out"))
            case "free":
                driver.engine.free_memory()
        for at, ids, new, _, outcome in asked:
            if outcome.finish == "length" and chats[at] == ids and len(outcome.tokens) == new:
                longer = [*ids, *outcome.tokens, *text(chance.randrange(3), chance.randrange(3, 20))]
                chats[at] = longer if len(longer) < LENGTH - 40 else text(100 + chance.randrange(3), 40)
    driver.run()
    whole = 0
    for _, ids, new, _, outcome in asked:
        assert outcome.finish in ("length", "cancelled", "failed"), outcome
        expected = reference(model, ids, new)
        assert outcome.tokens == expected[: len(outcome.tokens)]
        if outcome.finish == "length":
            whole += 1
            assert outcome.tokens == expected
    assert whole
    assert forward.free_tokens == forward.cache_tokens + forward.spare_tokens
