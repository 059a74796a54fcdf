"""Drafts change no answer: tokens, ends, draws, log-probabilities and counts are those without speculation.

In float32, where the shape of a batch changes no token of these models.
"""

import json
import random

import pytest
import torch
from ams_pod.engines.builtin.constraints.compiling import Compiler
from ams_pod.engines.builtin.constraints.vocabulary import read_vocabulary
from ams_pod.engines.builtin.model.batch import Batch, Chunk
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.padded import PaddedForward
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.scheduler import drafting, schedule, speculation
from ams_pod.engines.builtin.scheduler.speculation import Speculation
from ams_pod.engines.builtin.scheduler.step_times import StepTimes
from ams_pod.engines.port import Constraint, Prepared, Sampling
from ams_pod.shares import Share
from engine_harness import Driver, Outcome, load_model, reference
from fakehub import checkpoints
from tokenizers import Tokenizer

pytestmark = pytest.mark.family("text")

ROWS, LENGTH = 4, 320
_FAILED = Speculation.failed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("checkpoints") / "qwen3")


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture
def always(monkeypatch):
    """Whatever is guessed is drafted: as if verifying cost nothing. A step with drafts mustn't fail."""

    def lengths(rows, time):
        return [min(len(row.chances), 6) for row in rows]

    def failed(self, drafts, error):
        raise AssertionError("a step with drafts failed") from error

    monkeypatch.setattr(Speculation, "failed", failed)
    monkeypatch.setattr(speculation, "draft_lengths", lengths)
    monkeypatch.setattr(StepTimes, "of", lambda self, rows: lambda drafted: 1.0)


def driver_of(folder, *, speculate: bool, cache: int | None = None, prefixes: int = 0, ends=frozenset()) -> Driver:
    decoder = Decoder(find_stack(load_model(folder)), ROWS, LENGTH, cache_tokens=cache, prefix_tokens=prefixes)
    return Driver(decoder, ends, speculate=speculate)


def repetitive(seed: int, length: int = 80) -> list[int]:
    chance = random.Random(seed)
    phrase = [chance.randrange(5, 560) for _ in range(chance.randrange(3, 20))]
    text = phrase * (length // len(phrase) + 1)
    for _ in range(chance.randrange(3)):
        text[chance.randrange(length)] = chance.randrange(5, 560)
    return text[: chance.randrange(length // 2, length)]


def plain(seed: int, length: int = 60) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange(5, 560) for _ in range(chance.randrange(1, length))]


def answers(driver: Driver, prompts: list[list[int]], new: int, **sampling) -> list[tuple[list[int], str | None]]:
    """Four at a time, as drafts are made for no more."""
    outcomes = []
    for first in range(0, len(prompts), ROWS):
        outcomes += [driver.submit(ids, new, **sampling)[1] for ids in prompts[first : first + ROWS]]
        driver.run()
    return [(outcome.tokens, outcome.finish) for outcome in outcomes]


PROMPTS = [*(repetitive(seed) for seed in range(12)), *(plain(seed) for seed in range(12))]


def test_greedy_answers_are_those_of_generate(folder, model, always):
    driver = driver_of(folder, speculate=True)
    assert answers(driver, PROMPTS, 40) == [(reference(model, ids, 40), "length") for ids in PROMPTS]
    counters = driver.engine.counters
    assert 50 < counters.accepted_tokens < counters.drafted_tokens
    assert counters.decode_tokens == len(PROMPTS) * 39  # the first of each came with its prompt


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.7, "top_p": 0.9, "seed": 5},
        {"temperature": 1.0, "top_k": 3, "seed": 5},
        {"repetition_penalty": 1.05},
        {"presence_penalty": 0.3, "frequency_penalty": 0.2},
        {"min_new_tokens": 30},
        {"banned_tokens": (31, 33)},
        {"temperature": 0.5, "repetition_penalty": 1.1, "seed": 7, "min_p": 0.05},
    ],
)
def test_every_kind_of_sampling_chooses_as_it_does_without(folder, always, sampling):
    """One token at a time where they depend on each other; with the same draws. Few, so that some are guessed."""
    sampling = {"allowed_tokens": tuple(range(30, 37)), "logit_bias": ((30, -1.5),)} | sampling
    ends = frozenset({30})
    expected = answers(driver_of(folder, speculate=False, ends=ends), PROMPTS, 40, **sampling)
    driver = driver_of(folder, speculate=True, ends=ends)
    assert answers(driver, PROMPTS, 40, **sampling) == expected
    assert driver.engine.counters.drafted_tokens > 100
    assert driver.engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_that_are_held_to_a_form_follow_it_through_a_draft(folder, always, temperature):
    """Some end within a draft, where nothing may follow."""
    config = json.loads((folder / "config.json").read_text())
    ends = frozenset({config["eos_token_id"]})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    compiler = Compiler(lambda: read_vocabulary(tokenizer, config["vocab_size"], ends, thinks=False))
    made = []
    for speculate in (False, True):
        driver, outcomes = driver_of(folder, speculate=speculate, ends=ends), []
        for form in ("(ab|cd|ef){4,20}", "(xyz){12}", "a{9}b*c", '(\\{"k": [01]\\},){3,6}'):
            compiled = compiler.prepare(Constraint("regex", form))
            for seed in range(3):
                sampling = {"temperature": temperature, "seed": seed, "constraint": compiled}
                outcomes.append(driver.submit(repetitive(seed), 60, **sampling)[1])
            driver.run()
        made.append([(outcome.tokens, outcome.finish) for outcome in outcomes])
        assert bool(driver.engine.counters.accepted_tokens) == speculate
    assert made[0] == made[1]


def test_logprobs_are_told_of_each_token(folder, always):
    told = []
    for speculate in (False, True):
        driver = driver_of(folder, speculate=speculate)
        driver.engine._publish = told.extend
        driver.submit(repetitive(3), 40, logprobs=2)
        driver.run()
        assert bool(driver.engine.counters.accepted_tokens) == speculate
    first, second = told[:40], told[40:]
    assert [each.logprobs.token for each in first] == [each.logprobs.token for each in second]
    for one, other in zip(first, second, strict=True):
        assert one.logprobs.logprob == pytest.approx(other.logprobs.logprob, abs=1e-4)
        assert [token for token, _ in one.logprobs.top] == [token for token, _ in other.logprobs.top]


def cycle(model) -> tuple[list[int], list[int]]:
    """A prompt whose answer comes to repeat itself, and the answer."""
    for seed in range(60):
        ids = repetitive(seed)
        tokens = reference(model, ids, 60)
        if any(tokens[30:50] == tokens[30 - period : 50 - period] for period in range(1, 16)):
            return ids, tokens
    raise AssertionError("no answer repeats itself")


def test_an_answer_ends_at_an_end_token_within_a_draft(folder, model, always):
    """The prompt holds it, and what came behind it there."""
    within = 0
    for seed in range(12):
        ids = repetitive(seed)
        ids = [*ids, *reference(model, ids, 40)]
        tokens = reference(model, ids, 12)
        for at in range(2, 8):
            if tokens.index(tokens[at]) < at:
                continue
            how = {"ends": frozenset({tokens[at]})} if at % 2 else {"stop_tokens": (tokens[at],)}
            driver, last = driver_of(folder, speculate=True, ends=how.pop("ends", frozenset())), []
            driver.engine._publish = lambda events, driver=driver, last=last: (
                driver._publish(events),
                last.append(events),
            )
            _, outcome = driver.submit(ids, 60, **how)
            driver.run()
            assert (outcome.finish, outcome.tokens) == ("stop", tokens[: at + 1])
            assert driver.engine.counters.decode_tokens == at
            within += len(last[-1]) > 1
    assert within > 5


def test_an_end_token_in_the_prompt_is_drafted_and_ends_the_answer(folder, model, always):
    """What is copied goes on behind its end; the answer doesn't."""
    ids = repetitive(2)
    whole = reference(model, ids, 30)
    ended = 0
    for end in sorted(set(whole)):
        driver = driver_of(folder, speculate=True, ends=frozenset({end}))
        _, outcome = driver.submit([*ids, *whole, *ids], 30)
        driver.run()
        expected = reference(model, [*ids, *whole, *ids], 30)
        stop = expected.index(end) + 1 if end in expected else 30
        assert outcome.tokens == expected[:stop]
        assert outcome.finish == ("stop" if end in expected else "length")
        ended += end in expected
    assert ended


@pytest.mark.parametrize("new", range(30, 46))
def test_an_answer_is_as_long_as_it_may_be(folder, model, always, new):
    ids, tokens = cycle(model)
    driver = driver_of(folder, speculate=True)
    _, outcome = driver.submit(ids, new)
    driver.run()
    assert (outcome.finish, outcome.tokens) == ("length", tokens[:new])
    assert driver.engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("room", range(33, 45))
def test_an_answer_ends_where_the_context_does(folder, model, always, room):
    ids, tokens = cycle(model)
    decoder = Decoder(find_stack(load_model(folder)), 1, len(ids) + room)
    driver = Driver(decoder, speculate=True)
    _, outcome = driver.submit(ids, 500)
    driver.run()
    assert (outcome.finish, outcome.tokens) == ("length", tokens[:room])
    assert driver.engine.counters.accepted_tokens > 0


def test_a_cancelled_request_leaves_others_as_they_were(folder, model, always):
    ids, tokens = cycle(model)
    driver = driver_of(folder, speculate=True, prefixes=2048)
    ticket, cancelled = driver.submit(ids, 60)
    _, other = driver.submit(repetitive(7), 40)
    while len(cancelled.tokens) < 33:
        driver.engine.step()
    driver.engine.cancel(ticket)
    made = len(cancelled.tokens)
    driver.run()
    assert (cancelled.finish, cancelled.tokens) == ("cancelled", tokens[:made])
    assert other.tokens == reference(model, repetitive(7), 40)
    again, outcome = driver.submit([*ids, *cancelled.tokens], 10)  # what it left is what it had computed
    driver.run()
    assert again.cached_tokens > len(ids)
    assert outcome.tokens == tokens[made : made + 10]


def test_what_is_kept_of_prompts_holds_no_draft_that_was_wrong(folder, model, always):
    driver = driver_of(folder, speculate=True, prefixes=4096)
    chance = random.Random(3)
    texts = [repetitive(seed) for seed in range(4)]
    for turn in range(4):
        asked = []
        for ids in texts:
            new = chance.randrange(5, 30)
            asked.append((ids, new, driver.submit(ids, new)[1]))
        driver.run()
        for ids, new, outcome in asked:
            assert outcome.tokens == reference(model, ids, new)
        texts = [[*ids, *outcome.tokens, *plain(10 * turn + at, 12)] for at, (ids, _, outcome) in enumerate(asked)]
    assert driver.engine.counters.prefix_hits > 500
    assert driver.engine.counters.accepted_tokens > 50


def test_rows_that_are_preempted_go_on_as_they_would_have(folder, model, always):
    """The pool is too small for all: rows leave it, and move in it, between steps with drafts."""
    driver = driver_of(folder, speculate=True, cache=512, prefixes=1024)
    prompts = [repetitive(seed, 100) for seed in range(8)]
    outcomes = [driver.submit(ids, 150)[1] for ids in prompts]
    driver.run()
    for ids, outcome in zip(prompts, outcomes, strict=True):
        assert outcome.tokens == reference(model, ids, 150)
    assert driver.engine.counters.preempted > 0
    assert driver.engine.counters.accepted_tokens > 100


def test_a_batch_that_changes_gives_the_same_answers(folder, model, always, monkeypatch):
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 24)
    driver = driver_of(folder, speculate=True)
    chance = random.Random(4)
    asked = []
    for seed in range(16):
        ids, new = (repetitive if seed % 3 else plain)(seed), chance.randrange(1, 60)
        asked.append((ids, new, driver.submit(ids, new)[1]))
        for _ in range(chance.randrange(8)):
            driver.engine.step()
    driver.run()
    for ids, new, outcome in asked:
        assert outcome.tokens == reference(model, ids, new)
    assert driver.engine.counters.accepted_tokens > 20


def test_events_of_a_step_are_in_order_and_counted_for_whom_they_are(folder, always):
    driver = driver_of(folder, speculate=True)
    steps = []
    driver.engine._publish = steps.append
    tickets = []
    for seed, key in ((1, "a"), (2, "b")):
        prepared = Prepared(repetitive(seed))
        tickets.append(driver.engine.submit(prepared, Sampling(40), Outcome(), Share(key)))
    driver.run()
    counters = driver.engine.counters
    assert max(len(events) for events in steps) > 2
    for ticket, key in zip(tickets, "ab", strict=True):
        events = [event for step in steps for event in step if event.ticket is ticket]
        assert [event.finish for event in events] == [None] * 39 + ["length"]
        work = counters.by_key[key]
        assert work.answer_tokens == 39
        assert ticket.compute_seconds == pytest.approx(work.answer_seconds + work.prompt_seconds)
    assert sum(ticket.compute_seconds for ticket in tickets) == pytest.approx(counters.busy_seconds)


def test_a_step_that_fails_with_drafts_is_computed_again_without(folder, model, always, caplog, monkeypatch):
    monkeypatch.setattr(Speculation, "failed", _FAILED)
    driver = driver_of(folder, speculate=True)
    forward = driver.engine._forward
    whole_step = forward.step

    def step(batch):
        if any(chunk.all_logits for chunk in batch.chunks):
            raise RuntimeError("injected")
        return whole_step(batch)

    forward.step = step
    assert answers(driver, PROMPTS[:4], 40) == [(reference(model, ids, 40), "length") for ids in PROMPTS[:4]]
    assert driver.engine.counters.accepted_tokens == 0
    assert "a step with drafts failed (RuntimeError)" in caplog.text


def test_no_numbers_within_a_draft_fail_the_row_where_they_come(folder, model, always):
    ids, tokens = cycle(model)
    driver = driver_of(folder, speculate=True)
    forward = driver.engine._forward
    whole_step = forward.step
    _, outcome = driver.submit(ids, 60)

    def damaged(batch):
        logits = whole_step(batch)
        for chunk in batch.chunks:
            if chunk.all_logits and len(outcome.tokens) >= 33 and len(chunk.ids) > 2:
                logits = logits.clone()
                logits[2, 5] = torch.nan
        return logits

    forward.step = damaged
    driver.run()
    assert outcome.finish == "failed"
    assert "is no number (NaN)" in str(outcome.error)
    assert outcome.tokens == tokens[: len(outcome.tokens)]


def test_only_up_to_four_rows_are_drafted_for(folder, always):
    decoder = Decoder(find_stack(load_model(folder)), 8, LENGTH)
    driver = Driver(decoder, speculate=True)
    for seed in range(5):
        driver.submit(repetitive(seed), 40)
    driver.run()
    assert driver.engine.counters.drafted_tokens == 0


@pytest.mark.parametrize("speculate", [True, False])
def test_it_can_be_off_and_is_where_the_forward_reads_no_drafts(folder, speculate, always):
    forward = Decoder(find_stack(load_model(folder)), 2, LENGTH)
    if speculate:
        forward = PaddedForward(load_model(folder), 2, LENGTH)
    driver = Driver(forward, speculate=speculate)
    driver.submit(repetitive(3), 40)
    driver.run()
    assert driver.engine.counters.drafted_tokens == 0


def test_the_first_tokens_are_plain_steps_and_then_it_is_measured(folder, model, monkeypatch):
    """With the engine's own times, which are those of a tiny model under other load: answers are the same."""
    monkeypatch.setattr(drafting, "_CREDIT", 50.0)
    driver = driver_of(folder, speculate=True)
    assert answers(driver, PROMPTS, 60) == [(reference(model, ids, 60), "length") for ids in PROMPTS]
    assert driver.engine.counters.accepted_tokens > 0


def test_a_draft_is_read_at_the_positions_of_its_tokens(tmp_path_factory):
    """Of a model whose positions are not the tokens' numbers, behind media."""
    from ams_pod.engines.builtin.scheduler.row import Row
    from ams_pod.engines.builtin.towers.queue import Prompt
    from ams_pod.engines.port import Ticket

    positions = torch.tensor([[0, 1, 1, 1, 2], [0, 1, 1, 2, 3], [0, 1, 2, 1, 3]])
    prompt = Prompt(embeds=None, positions=positions, delta=-1)
    row = Row.of(Ticket(Prepared([5, 6, 6, 6, 7]), Sampling(20), Outcome(), 0.0), prompt)
    row.read, row.tokens, row.slot = 5, [8, 9], 0
    chunk = row.draft_chunk([10, 11])
    assert (chunk.start, list(chunk.ids)) == (6, [9, 10, 11])
    assert chunk.positions.tolist() == [[5, 6, 7]] * 3


def test_logits_of_a_whole_chunk(folder):
    decoder = Decoder(find_stack(load_model(folder)), 3, LENGTH)
    ids = plain(1)[:20]
    for slot in range(2):
        assert decoder.reserve(slot, 40)
    both = decoder.step(Batch([], [], [], [], [Chunk(0, 0, ids, True), Chunk(1, 0, ids, True)]))
    one = [decoder.step(Batch([0], [token], [len(ids) + at], [0], []))[0] for at, token in enumerate((50, 51, 52))]
    chunk = Chunk(1, len(ids), [50, 51, 52], True, all_logits=True)
    logits = decoder.step(Batch([0], [60], [len(ids)], [0], [chunk]))
    assert logits.shape[0] == 4
    assert torch.allclose(logits[1:], torch.stack(one), atol=1e-4)
    assert torch.allclose(both[0], both[1], atol=1e-4)
