"""Requests whose prompts come out of towers: they wait apart, in bounded calls, and fail alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.scheduler import core, schedule
from ams_pod.engines.builtin.towers.queue import Prompt
from ams_pod.engines.port import Prepared, Sampling
from ams_pod.shares import Share
from engine_harness import Driver, Outcome, forward_of, load_model, prompts, reference
from fakehub import checkpoints

ROWS, LENGTH = 3, 160


@dataclass
class TokenTower:
    """A tower whose media are token ids: its features are their embeddings, so that answers are those of the text.

    A piece is `size` tokens of them. A call with a token of `poison` raises.
    """

    embedding: torch.nn.Module
    size: int = 10
    share: float = 1.0
    poison: frozenset[int] = frozenset()
    layers: int = 1
    calls: list[list[int]] = field(default_factory=list)  # tokens of each piece

    def pieces(self, prepared: Prepared) -> Sequence[Piece]:
        ids = prepared.ids
        return [Piece("tokens", -1, self.share, list(ids[at : at + self.size])) for at in range(0, len(ids), self.size)]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece], between: Callable[[], None]) -> list[torch.Tensor]:
        self.calls.append([len(piece.inputs) for piece in pieces])
        for piece in pieces:
            if self.poison.intersection(piece.inputs):
                raise RuntimeError("poison")
        for _ in range(self.layers):
            between()
        return [self.embedding(torch.tensor(piece.inputs)) for piece in pieces]

    def merge(self, prepared: Prepared, features: Sequence[torch.Tensor]) -> Prompt:
        return Prompt(torch.cat(list(features)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("towers") / "qwen3")


@pytest.fixture(params=["flat", "padded"])
def kind(request):
    return request.param


def driver_of(folder, kind, **options):
    model = load_model(folder)
    tower = TokenTower(model.get_input_embeddings(), **options)
    return Driver(forward_of(kind, load_model(folder), ROWS, LENGTH), embedder=tower), tower, model


def media(ids):
    return Prepared(list(ids), media=object(), media_items=1)


def test_a_mixed_batch_equals_generate(folder, kind, monkeypatch):
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    driver, tower, model = driver_of(folder, kind, share=0.5)
    outcomes = []
    wanted = prompts(9, seed=4, longest=70)
    for index, ids in enumerate(wanted):
        prepared = media(ids) if index % 2 else Prepared(ids)
        outcomes.append(driver.submit_prepared(prepared, 10 + index)[1])
        driver.engine.step()
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == [
        reference(model, ids, 10 + index) for index, ids in enumerate(wanted)
    ]
    assert max(map(len, tower.calls)) == 2


def test_text_passes_a_request_in_the_towers_and_rows_wait_for_one_call_at_most(folder):
    driver, tower, _ = driver_of(folder, "flat")
    _, running = driver.submit([7, 8, 9], 60)
    driver.engine.step()
    _, long = driver.submit_prepared(media(range(5, 105)), 4)  # ten calls
    driver.engine.step()
    _, text = driver.submit([20, 21], 3)
    while text.finish is None:
        before, calls = len(running.tokens), len(tower.calls)
        driver.engine.step()
        assert len(running.tokens) == before + 1
        assert len(tower.calls) <= calls + 1
    assert len(text.tokens) == 3
    assert len(tower.calls) < 10
    assert long.tokens == []
    assert driver.engine.occupancy().waiting == 1
    driver.run()
    assert len(long.tokens) == 4


def test_requests_go_on_between_the_layers_of_a_tower(folder, kind, monkeypatch):
    """They come, run and end while one call lasts; and the call's own request may leave meanwhile."""
    monkeypatch.setattr(core, "GAP_SECONDS", 0.0)
    driver, tower, model = driver_of(folder, kind, size=200, layers=30)
    _, running = driver.submit([7, 8, 9], 12)
    driver.engine.step()
    _, encoded = driver.submit_prepared(media(range(5, 65)), 6)
    _, text = driver.submit([20, 21], 4)
    driver.engine.step()
    assert tower.calls == [[60]]
    assert (len(running.tokens), len(text.tokens), encoded.tokens) == (12, 4, [])
    leaving, left = driver.submit_prepared(media(range(5, 65)), 6)
    between = driver.engine._between
    monkeypatch.setattr(driver.engine, "_between", lambda: (driver.engine.cancel(leaving), between()))
    driver.run()
    assert left.finish == "cancelled"
    assert running.tokens == reference(model, [7, 8, 9], 12)
    assert text.tokens == reference(model, [20, 21], 4)
    assert encoded.tokens == reference(model, list(range(5, 65)), 6)
    assert driver.engine.occupancy().waiting == 0


def test_a_tower_that_fails_after_its_request_left_fails_nobody(folder, monkeypatch):
    monkeypatch.setattr(core, "GAP_SECONDS", 0.0)
    driver, tower, _ = driver_of(folder, "flat")
    driver.submit([7, 8, 9], 6)
    ticket, outcome = driver.submit_prepared(media(range(5, 15)), 6)

    def fail(pieces, between):
        driver.engine.cancel(ticket)
        between()
        raise RuntimeError("poison")

    monkeypatch.setattr(tower, "encode", fail)
    driver.run()
    assert outcome.finish == "cancelled"
    assert driver.engine.occupancy().waiting == 0


def test_what_fails_within_a_tower_call_is_not_blamed_on_its_media(folder, monkeypatch):
    monkeypatch.setattr(core, "GAP_SECONDS", 0.0)
    driver, _, _ = driver_of(folder, "flat")
    driver.submit([7, 8, 9], 6)
    _, outcome = driver.submit_prepared(media(range(5, 15)), 6)
    steps = iter([None])  # the second is the one within the call
    monkeypatch.setattr(driver.engine, "_free", lambda: next(steps))
    with pytest.raises(StopIteration):
        driver.engine.step()
    assert outcome.finish is None


def test_towers_get_their_turn_among_prompts_that_follow_each_other(folder, monkeypatch):
    """However many prompts wait, there is a call between two of them."""
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 30)
    driver, tower, _ = driver_of(folder, "flat")
    texts = [driver.submit(range(5, 75), 1)[1] for _ in range(12)]
    _, encoded = driver.submit_prepared(media(range(5, 45)), 4)  # four calls
    while len(tower.calls) < 4:
        driver.engine.step()
    assert sum(text.finish is not None for text in texts) <= 5
    driver.run()
    assert len(encoded.tokens) == 4


def test_pieces_of_several_requests_share_a_call_within_the_bound(folder):
    driver, tower, _ = driver_of(folder, "flat", share=0.3)
    for start in (10, 40, 70, 100):
        driver.submit_prepared(media(range(start, start + 20)), 2)
    driver.run()
    assert [len(call) for call in tower.calls] == [3, 3, 2]
    assert driver.engine.counters.tower_calls == 3


def test_a_failing_tower_fails_its_request_alone(folder, kind):
    driver, _, model = driver_of(folder, kind, share=0.1, poison=frozenset({50}))
    _, running = driver.submit([7, 8, 9], 30)
    driver.engine.step()
    outcomes = [driver.submit_prepared(media(range(start, start + 15)), 8)[1] for start in (10, 45, 70)]
    driver.run()
    assert [outcome.finish for outcome in outcomes] == ["length", "failed", "length"]
    assert str(outcomes[1].error) == "poison"
    assert running.tokens == reference(model, [7, 8, 9], 30)
    for start, outcome in ((10, outcomes[0]), (70, outcomes[2])):
        assert outcome.tokens == reference(model, list(range(start, start + 15)), 8)
    assert driver.engine.occupancy() == type(driver.engine.occupancy())(0, 0, 0, ROWS * LENGTH)


def test_one_that_leaves_the_towers_is_forgotten(folder):
    driver, tower, _ = driver_of(folder, "flat")
    ticket, gone = driver.submit_prepared(media(range(5, 105)), 4)
    _, other = driver.submit_prepared(media(range(5, 15)), 4)
    driver.engine.step()
    driver.engine.cancel(ticket)
    driver.run()
    assert gone.finish == "cancelled"
    assert len(other.tokens) == 4
    assert len(tower.calls) == 2


def test_the_media_are_let_go_once_they_are_embeddings(folder):
    driver, _, _ = driver_of(folder, "flat")
    ticket, _ = driver.submit_prepared(media(range(5, 15)), 4)
    driver.engine.step()
    assert ticket.prepared.media is None
    assert ticket.prepared.media_items == 1


def test_among_prompts_read_together_the_failing_one_fails_alone(folder, kind):
    driver, _, model = driver_of(folder, kind)
    _, running = driver.submit([7, 8, 9], 30)
    driver.engine.step()
    good = [driver.submit([10, 11, 12, 13], 9)[1]]
    bad = driver.submit([20, 10_000_000], 9)[1]  # outside the vocabulary: the embedding lookup raises
    good.append(driver.submit([30, 31], 9)[1])
    driver.run()
    assert bad.finish == "failed"
    assert isinstance(bad.error, IndexError)
    assert [outcome.tokens for outcome in good] == [reference(model, ids, 9) for ids in ([10, 11, 12, 13], [30, 31])]
    assert running.tokens == reference(model, [7, 8, 9], 30)


def test_towers_wait_while_enough_prompts_are_ready(folder):
    """Features take memory, and calls take time from running requests: no more is encoded than can run next."""
    driver, tower, _ = driver_of(folder, "flat")
    for _ in range(ROWS):
        driver.submit([7, 8, 9], 20)
    driver.engine.step()
    for _ in range(3 * ROWS):
        driver.submit_prepared(media(range(5, 15)), 2)
    for _ in range(15):
        driver.engine.step()
    assert len(tower.calls) == ROWS
    driver.run()
    assert len(tower.calls) == 3 * ROWS


BUSY, CHAT = Share("busy"), Share("chat")


def ask(driver, prepared, new, share):
    outcome = Outcome()
    return driver.engine.submit(prepared, Sampling(new, ignore_eos=True), outcome, share), outcome


def test_a_picture_of_another_key_waits_for_one_call_of_a_long_video(folder, kind):
    driver, tower, model = driver_of(folder, kind)
    videos = [ask(driver, media(range(5, 105)), 4, BUSY) for _ in range(3)]  # ten calls each
    for _ in range(3):
        driver.engine.step()
    driver.engine._shares.charge(BUSY, 1000.0)
    driver.engine._shares.charge(BUSY, 1.0)
    calls = len(tower.calls)
    ticket, picture = ask(driver, media(range(200, 210)), 1, CHAT)
    while picture.finish is None:
        driver.engine.step()
    assert len(tower.calls) <= calls + 2
    driver.run()
    assert picture.tokens == reference(model, range(200, 210), 1)
    assert [outcome.tokens for _, outcome in videos] == [reference(model, range(5, 105), 4)] * 3
    counters = driver.engine.counters
    seconds = sum(each.compute_seconds for each in (ticket, *(each for each, _ in videos)))
    assert seconds == pytest.approx(counters.busy_seconds + counters.tower_seconds, rel=0.01)
    assert {"media-towers", "reading"} <= set(ticket.waits.seconds)


def test_media_that_wait_for_a_slot_dont_keep_another_keys_from_the_towers(folder):
    driver, _, _ = driver_of(folder, "flat", size=200)
    for _ in range(ROWS):
        ask(driver, Prepared([7, 8, 9]), 100, BUSY)
    driver.engine.step()
    for _ in range(ROWS + 2):
        ask(driver, media(range(5, 25)), 4, BUSY)
    for _ in range(ROWS + 4):
        driver.engine.step()
    driver.engine._shares.charge(BUSY, 1000.0)
    driver.engine._shares.charge(BUSY, 1.0)
    _, picture = ask(driver, media(range(200, 210)), 1, CHAT)
    for _ in range(4):
        driver.engine.step()
    assert picture.finish == "length"


def test_what_leaves_the_towers_or_fails_there_is_accounted(folder, kind):
    driver, _, _ = driver_of(folder, kind, share=0.5, poison=frozenset({77}))
    asked = [
        ask(driver, media([*range(5, 35), *([77] if index == 2 else [])]), 4, (BUSY, CHAT)[index % 2])
        for index in range(6)
    ]
    driver.engine.step()
    driver.engine.cancel(asked[0][0])
    driver.run()
    assert asked[2][1].finish == "failed"
    assert asked[2][0].compute_seconds > 0
    counters = driver.engine.counters
    seconds = sum(ticket.compute_seconds for ticket, _ in asked)
    assert seconds == pytest.approx(counters.busy_seconds + counters.tower_seconds, rel=0.01)
