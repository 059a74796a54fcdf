"""Logprobs of answers and prompts are those of the forward pass of transformers, however prompts are cut."""

import pytest
import torch
from ams_pod.engines.builtin.scheduler import row as rows
from ams_pod.engines.builtin.scheduler import schedule
from engine_harness import Driver, forward_of, load_model, prompts
from fakehub import checkpoints


@pytest.fixture(scope="module", params=["qwen3", "llama"])
def folder(request, tmp_path_factory):
    return checkpoints.make(request.param, tmp_path_factory.mktemp("checkpoints") / request.param)


@torch.inference_mode()
def expected_of(model, ids):
    """[tokens, vocabulary]: row i is what follows token i."""
    return torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_answers_and_prompts(folder, kind, monkeypatch):
    """Prompts are read in chunks, beside each other and beside answers."""
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 24)
    monkeypatch.setattr(rows, "_LONGEST_HEARD", 11)
    wanted = prompts(5, seed=3, longest=90)
    model = load_model(folder)
    driver = Driver(forward_of(kind, load_model(folder), 3, 160))
    events = []
    publish = driver.engine._publish
    driver.engine._publish = lambda new: (events.extend(new), publish(new))
    asked = [
        driver.submit(ids, 6, temperature=1.5, seed=n, logprobs=n, prompt_logprobs=2 if n != 1 else None, top_k=5)
        for n, ids in enumerate(wanted)
    ]
    driver.run()
    for number, (ids, (ticket, outcome)) in enumerate(zip(wanted, asked, strict=True)):
        expected = expected_of(model, [*ids, *outcome.tokens])
        own = [event.logprobs for event in events if event.ticket is ticket]
        assert [each.token for each in own] == outcome.tokens
        for at, each in enumerate(own, start=len(ids) - 1):
            assert each.logprob == pytest.approx(float(expected[at, each.token]), abs=1e-3)
            best = expected[at].topk(number)
            assert [token for token, _ in each.top] == best.indices.tolist()
            assert [value for _, value in each.top] == pytest.approx(best.values.tolist(), abs=1e-3)
        if number == 1:
            assert ticket.prompt_logprobs is None
            continue
        first, *others = ticket.prompt_logprobs
        assert first is None
        assert [each.token for each in others] == ids[1:]
        for at, each in enumerate(others):
            assert each.logprob == pytest.approx(float(expected[at, ids[at + 1]]), abs=1e-3)
            assert [value for _, value in each.top] == pytest.approx(expected[at].topk(2).values.tolist(), abs=1e-3)


def test_setbacks_tell_prompts_again(folder):
    ids = prompts(1, seed=4, longest=60)[0]
    driver = Driver(forward_of("flat", load_model(folder), 3, 160))
    ticket, outcome = driver.submit(ids, 8, prompt_logprobs=0)
    for _ in range(4):
        driver.engine.step()
    before = list(ticket.prompt_logprobs)
    [row] = driver.engine._slots.rows()
    driver.engine._slots.vacate(row)
    row.set_aside()
    driver.engine._waiting.appendleft(row)
    driver.run()
    assert outcome.finish == "length"
    assert [each and each.token for each in ticket.prompt_logprobs] == [each and each.token for each in before]


def test_stop_tokens_end_answers(folder):
    driver = Driver(forward_of("flat", load_model(folder), 3, 160))
    free = driver.submit([5, 6, 7], 12)[1]
    driver.run()
    ends = free.tokens[4]
    stopped = driver.submit([5, 6, 7], 12, stop_tokens=(ends,))[1]
    least = driver.submit([5, 6, 7], 12, stop_tokens=(ends,), min_new_tokens=9)[1]
    driver.run()
    assert stopped.tokens == free.tokens[: free.tokens.index(ends) + 1]
    assert stopped.finish == "stop"
    assert ends not in least.tokens[:9]
