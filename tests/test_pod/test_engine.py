"""The engine's answers are those of transformers' generate, alone and in a batch that changes at every step."""

import pytest
import torch
from ams_pod.engines.builtin.scheduler import schedule
from engine_harness import Driver, forward_of, load_model, prompts, reference
from fakehub import checkpoints

pytestmark = pytest.mark.family("text")

ROWS, LENGTH = 4, 160


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def folder(request, tmp_path_factory):
    return checkpoints.make(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)


@pytest.fixture(scope="module", params=["flat", "padded"])
def kind(request):
    return request.param


def test_alone_equals_generate(folder, kind):
    wanted = prompts(3)
    expected = [reference(load_model(folder), ids, 20) for ids in wanted]
    driver = Driver(forward_of(kind, load_model(folder), ROWS, LENGTH))
    for ids, tokens in zip(wanted, expected, strict=True):
        _, outcome = driver.submit(ids, 20)
        driver.run()
        assert outcome.tokens == tokens
        assert outcome.finish == "length"


def test_changing_batch_equals_generate(folder, kind, monkeypatch):
    """More requests than rows, of mixed lengths, arriving and leaving between steps, prompts read in chunks."""
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 24)
    wanted = prompts(11, seed=2, longest=90)
    lengths = [3, 25, 9, 40, 1, 17, 30, 5, 22, 12, 33]
    model = load_model(folder)
    expected = [reference(model, ids, new) for ids, new in zip(wanted, lengths, strict=True)]
    driver = Driver(forward_of(kind, model, ROWS, LENGTH))
    outcomes = []
    for ids, new in zip(wanted, lengths, strict=True):
        outcomes.append(driver.submit(ids, new)[1])
        driver.engine.step()
        driver.engine.step()
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected


def test_short_prompts_pass_a_long_one(folder, kind, monkeypatch):
    """It goes on in every step, in a slot between rows that come and leave; answers are the same."""
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 16)
    model = load_model(folder)
    long, *shorts = [list(range(5, 145)), *prompts(5, seed=9, longest=20)]
    longer = list(range(8, 138))
    expected = [reference(model, ids, 10) for ids in (long, longer)] + [reference(model, ids, 3) for ids in shorts]
    driver = Driver(forward_of(kind, model, ROWS, LENGTH))
    _, first = driver.submit(long, 10)
    _, second = driver.submit(longer, 10)
    driver.engine.step()
    asked = []
    for ids in shorts:
        asked.append(driver.submit(ids, 3)[1])
        driver.engine.step()
        driver.engine.step()
    assert sum(outcome.finish is not None for outcome in asked) >= 2
    assert first.tokens == []
    driver.run()
    assert [outcome.tokens for outcome in (first, second, *asked)] == expected


def test_cancelled_requests_leave_and_the_others_never_notice(folder, kind, monkeypatch):
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    wanted = prompts(8, seed=3, longest=80)
    model = load_model(folder)
    expected = [reference(model, ids, 24) for ids in wanted]
    driver = Driver(forward_of(kind, model, ROWS, LENGTH))
    submitted = [driver.submit(ids, 24) for ids in wanted]
    for step in range(200):
        if step in (2, 5, 9):
            driver.engine.cancel(submitted[{2: 0, 5: 3, 9: 6}[step]][0])
        if not driver.engine.step():
            break
    for index, (_, outcome) in enumerate(submitted):
        if index in (0, 3, 6):
            assert outcome.finish == "cancelled"
            assert outcome.tokens == expected[index][: len(outcome.tokens)]
        else:
            assert outcome.tokens == expected[index]


def test_a_cancelled_request_gets_no_further_token(folder):
    driver = Driver(forward_of("flat", load_model(folder), ROWS, LENGTH))
    ticket, outcome = driver.submit([7, 8, 9], 50)
    for _ in range(3):
        driver.engine.step()
    made = len(outcome.tokens)
    driver.engine.cancel(ticket)
    driver.engine.step()
    assert outcome.finish == "cancelled"
    assert len(outcome.tokens) == made


def test_an_end_token_ends_and_frees_the_row(folder):
    model = load_model(folder)
    tokens = reference(model, [7, 8, 9], 12)
    driver = Driver(forward_of("flat", model, ROWS, LENGTH), frozenset({tokens[5]}))
    _, outcome = driver.submit([7, 8, 9], 50)
    driver.run()
    assert outcome.finish == "stop"
    assert outcome.tokens == tokens[: tokens.index(tokens[5]) + 1]
    assert driver.engine.occupancy().running == 0


def test_an_answer_ends_where_the_context_does(folder, kind):
    driver = Driver(forward_of(kind, load_model(folder), ROWS, 32))
    _, outcome = driver.submit([7] * 30, 50)
    driver.run()
    assert outcome.finish == "length"
    assert len(outcome.tokens) == 2


def test_a_failing_prompt_is_alone_in_failing(folder, kind, monkeypatch):
    model = load_model(folder)
    expected = reference(model, [7, 8, 9], 20)
    forward = forward_of(kind, model, ROWS, LENGTH)
    driver = Driver(forward)
    _, good = driver.submit([7, 8, 9], 20)
    driver.engine.step()
    _, bad = driver.submit([10_000_000], 5)  # outside the vocabulary: the embedding lookup raises
    driver.run()
    assert bad.finish == "failed"
    assert isinstance(bad.error, IndexError)
    assert good.tokens == expected


def test_a_failing_step_fails_its_rows_and_the_next_request_is_answered(folder, kind):
    model = load_model(folder)
    expected = reference(model, [7, 8, 9], 20)
    forward = forward_of(kind, model, ROWS, LENGTH)
    driver = Driver(forward)
    _, first = driver.submit([7, 8, 9], 20)
    driver.engine.step()
    whole_step, forward.step = forward.step, _raise
    driver.engine.step()
    forward.step = whole_step
    _, second = driver.submit([7, 8, 9], 20)
    driver.run()
    assert first.finish == "failed"
    assert second.tokens == expected


def _raise(batch):
    raise RuntimeError("injected")


def test_seeded_draws_do_not_depend_on_the_batch(folder):
    driver = Driver(forward_of("flat", load_model(folder), ROWS, LENGTH))
    _, alone = driver.submit([7, 8, 9], 30, temperature=1.0, top_p=0.9, seed=5)
    driver.run()
    others = [driver.submit(ids, 25, temperature=1.5)[1] for ids in prompts(3)]
    _, together = driver.submit([7, 8, 9], 30, temperature=1.0, top_p=0.9, seed=5)
    _, other_seed = driver.submit([7, 8, 9], 30, temperature=1.0, top_p=0.9, seed=6)
    driver.run()
    assert together.tokens == alone.tokens
    assert other_seed.tokens != alone.tokens
    assert all(outcome.finish == "length" for outcome in others)


def test_bfloat16_flat_stays_close_to_the_models_own_forward(folder):
    from ams_pod.engines.builtin.model import verify

    model = load_model(folder, torch.bfloat16)
    probes = verify.text_probes(model)
    forward = forward_of("flat", model, ROWS, LENGTH)
    assert verify.close_enough(verify.distance(forward, probes), torch.bfloat16)


def test_a_wrong_rotary_table_is_seen_by_the_check(folder):
    from ams_pod.engines.builtin.model import verify

    model = load_model(folder)
    probes = verify.text_probes(model)
    forward = forward_of("flat", model, ROWS, LENGTH)
    forward._cos = forward._cos.roll(1, 0)
    assert not verify.close_enough(verify.distance(forward, probes), torch.float32)


def test_a_row_of_no_numbers_fails_alone(folder, kind):
    """Its batch goes on as if it had never been there."""
    model = load_model(folder)
    wanted = prompts(3)
    expected = [reference(model, ids, 12) for ids in wanted]
    forward = forward_of(kind, model, ROWS, LENGTH)
    driver = Driver(forward)
    outcomes = [driver.submit(ids, 12)[1] for ids in wanted]
    sampled = driver.submit(wanted[0], 12, temperature=1.0, seed=3)[1]
    compute = forward.step

    def damaged(batch):
        logits = compute(batch)
        if len(batch.slots) >= 4 and len(outcomes[1].tokens) == 5:
            logits = logits.clone()
            logits[list(batch.slots).index(1), 17] = torch.nan
        return logits

    forward.step = damaged
    driver.run()
    assert [outcomes[0].tokens, outcomes[2].tokens] == [expected[0], expected[2]]
    assert (outcomes[1].finish, len(outcomes[1].tokens)) == ("failed", 5)
    assert "is no number (NaN)" in str(outcomes[1].error)
    alone = Driver(forward_of(kind, load_model(folder), ROWS, LENGTH))
    again = alone.submit(wanted[0], 12, temperature=1.0, seed=3)[1]
    alone.run()
    assert sampled.tokens == again.tokens
