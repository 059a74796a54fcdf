"""Memory runs out at a chosen moment: whom it hits is helped as far as can be, and the others never notice."""

import logging
from collections.abc import Callable

import pytest
import torch
from ams_pod.engines.builtin.model.batch import Batch
from ams_pod.engines.builtin.prompts.pieces import Piece
from ams_pod.engines.builtin.scheduler import schedule
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks
from ams_pod.engines.builtin.towers.queue import Prompt
from ams_pod.engines.port import EngineRefusal, Prepared
from engine_harness import Driver, forward_of, load_model, prompts, reference
from fakehub import checkpoints

ROWS, LENGTH = 4, 160
CPU_WORDS = "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 GB"


class Short:
    """A forward that memory runs out for whenever `when` says so of its batch, before or after it has computed."""

    def __init__(self, inner, when: Callable[[Batch], bool], error: Callable[[], Exception], late: bool = False):
        self._inner, self.when, self._error, self._late = inner, when, error, late
        self.failures = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def step(self, batch: Batch) -> torch.Tensor:
        fails = self.when(batch)
        if fails and not self._late:
            self.failures += 1
            raise self._error()
        logits = self._inner.step(batch)
        return Unusable(self) if fails else logits


class Unusable:
    """Logits that there is no memory to sample from."""

    def __init__(self, forward: Short) -> None:
        self._forward = forward

    @property
    def shape(self):
        self._forward.failures += 1
        raise self._forward._error()


def cuda() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")


def cpu() -> Exception:
    return RuntimeError(CPU_WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("ladder") / "qwen3")


@pytest.fixture(params=["flat", "padded"])
def kind(request):
    return request.param


def short_driver(folder, kind, when, error=cuda, fallbacks=(), embedder=None, lane=None, late=False):
    forward = Short(forward_of(kind, load_model(folder), ROWS, LENGTH), when, error, late)
    return Driver(forward, embedder=embedder, fallbacks=OomFallbacks(tuple(fallbacks), "cpu", lane)), forward


def counted(driver):
    return driver.engine.counters.out_of_memory


@pytest.mark.parametrize("error", [cuda, cpu, MemoryError])
def test_decoding_goes_on_with_fewer_rows_and_the_newest_comes_later(folder, kind, error):
    """More than two rows don't fit: all the same everybody gets every token, once."""
    wanted = prompts(5, seed=5)
    model = load_model(folder)
    expected = [reference(model, ids, 10 + index) for index, ids in enumerate(wanted)]
    driver, forward = short_driver(folder, kind, lambda batch: len(batch.tokens) > 2, error)
    outcomes = []
    for index, ids in enumerate(wanted):
        outcomes.append(driver.submit(ids, 10 + index))
        driver.engine.step()
    driver.run()
    assert [outcome.tokens for _, outcome in outcomes] == expected
    assert {outcome.finish for _, outcome in outcomes} == {"length"}
    assert all(ticket.degraded is None for ticket, _ in outcomes)
    assert forward.failures >= 1
    assert all(rung == "shrink" for _, rung in counted(driver))


def test_a_request_that_never_has_memory_for_its_logits_is_refused(folder, kind):
    """It is read anew once, and not for ever; who comes next is answered."""
    model = load_model(folder)
    wanted = prompts(2, seed=9)
    failing = [True]
    driver, forward = short_driver(folder, kind, lambda batch: failing[0], late=True)
    _, outcome = driver.submit(wanted[0], 10)
    for _ in range(20):
        driver.engine.step()
    assert outcome.finish == "failed"
    assert "Memory ran out" in str(outcome.error)
    assert forward.failures == 2
    failing[0] = False
    _, after = driver.submit(wanted[1], 10)
    driver.run()
    assert after.tokens == reference(model, wanted[1], 10)


def test_one_failed_step_costs_nobody_a_token(folder, kind, monkeypatch):
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 16)
    wanted = prompts(4, seed=6, longest=50)
    model = load_model(folder)
    expected = [reference(model, ids, 20) for ids in wanted]
    for failing in range(2, 18, 3):
        calls = iter(range(1000))
        driver, forward = short_driver(folder, kind, lambda batch, calls=calls, failing=failing: next(calls) == failing)
        outcomes = [driver.submit(ids, 20)[1] for ids in wanted]
        driver.run()
        assert [outcome.tokens for outcome in outcomes] == expected, failing
        assert forward.failures == 1


def test_one_that_fails_after_it_computed_costs_nobody_a_token_either(folder, kind):
    wanted = prompts(3, seed=7)
    model = load_model(folder)
    expected = [reference(model, ids, 15) for ids in wanted]
    for failing in (0, 1, 5):
        calls = iter(range(1000))
        driver, forward = short_driver(
            folder, kind, lambda batch, calls=calls, failing=failing: next(calls) == failing, late=True
        )
        outcomes = [driver.submit(ids, 15)[1] for ids in wanted]
        driver.run()
        assert [outcome.tokens for outcome in outcomes] == expected
        assert forward.failures == 1


def test_a_prompt_that_does_not_fit_beside_others_waits_until_they_are_done(folder, kind):
    model = load_model(folder)
    long = prompts(1, seed=8)[0] * 3
    driver, forward = short_driver(
        folder, kind, lambda batch: bool(batch.tokens) and any(len(chunk.ids) > 20 for chunk in batch.chunks)
    )
    _, running = driver.submit([7, 8, 9], 12)
    driver.engine.step()
    ticket, large = driver.submit(long[:60], 8)
    _, behind = driver.submit([10, 11], 5)
    driver.run()
    assert running.tokens == reference(model, [7, 8, 9], 12)
    assert large.tokens == reference(model, long[:60], 8)
    assert behind.tokens == reference(model, [10, 11], 5)
    assert ticket.degraded is None
    assert counted(driver) == {("prefill", "shrink"): 3}  # two read together, then the large one beside the row
    assert forward.failures == 2


LONG = list(range(20, 70))


def too_long(batch: Batch) -> bool:
    return any(chunk.end > 30 for chunk in batch.chunks)


@pytest.mark.parametrize(
    ("fallbacks", "finish", "degraded", "rung"),
    [
        ((), "failed", None, "refused"),
        (("cpu", "text-only"), "failed", None, "refused"),  # on a CPU there is no other, and there are no media
        (("cpu", "text-only", "simplified"), "stop", "simplified", "simplified"),
    ],
)
def test_what_never_fits_ends_by_its_fallbacks_and_the_others_go_on(
    folder, kind, fallbacks, finish, degraded, rung, caplog
):
    model = load_model(folder)
    driver, _ = short_driver(folder, kind, too_long, fallbacks=fallbacks)
    _, running = driver.submit([7, 8, 9], 12)
    driver.engine.step()
    with caplog.at_level(logging.WARNING):
        ticket, hit = driver.submit(LONG, 8)
        _, behind = driver.submit([10, 11], 5)
        driver.run()
    assert (hit.finish, hit.tokens, ticket.degraded) == (finish, [], degraded)
    assert running.tokens == reference(model, [7, 8, 9], 12)
    assert behind.tokens == reference(model, [10, 11], 5)
    assert counted(driver)["prefill", rung] == 1
    assert sum(rung in record.message for record in caplog.records) == 1
    if finish == "failed":
        assert isinstance(hit.error, EngineRefusal)
        assert "its prompt was read" in str(hit.error)
        assert "50 tokens" in str(hit.error)
        assert "of cache; " in str(hit.error)


def test_an_answer_that_began_is_not_ended_with_other_words(folder, kind):
    driver, _ = short_driver(folder, kind, lambda batch: max(batch.lengths, default=0) > 8, fallbacks=["simplified"])
    ticket, hit = driver.submit([7, 8, 9], 12)
    driver.run()
    assert hit.finish == "failed"
    assert isinstance(hit.error, EngineRefusal)
    assert ticket.degraded is None
    assert hit.tokens == reference(load_model(folder), [7, 8, 9], 12)[: len(hit.tokens)] != []
    assert counted(driver) == {("decode", "refused"): 1}
    _, next_one = driver.submit([7, 8], 4)
    driver.run()
    assert next_one.finish == "length"


class OtherEngine:
    """A lane whose engine the test drives."""

    def __init__(self, folder, kind, embedder=None) -> None:
        self.driver = Driver(forward_of(kind, load_model(folder), 1, LENGTH), embedder=embedder)
        self.room = True

    def fits(self) -> bool:
        return self.room

    def take(self, row) -> None:
        self.driver.engine.adopt(row)

    def stop(self) -> None:
        pass


def test_the_cpu_takes_on_what_the_gpu_cannot(folder, kind):
    """At prefill and in the midst of an answer."""
    model = load_model(folder)
    lane = OtherEngine(folder, kind)
    driver, _ = short_driver(
        folder, kind, lambda batch: too_long(batch) or max(batch.lengths, default=0) > 12, fallbacks=["cpu"], lane=lane
    )
    began, half = driver.submit([7, 8, 9], 20)
    driver.run()
    made = len(half.tokens)
    whole, long = driver.submit(LONG, 8)
    driver.run()
    assert (half.finish, long.finish) == (None, None)
    assert 0 < made < 20
    lane.driver.run()
    assert half.tokens == reference(model, [7, 8, 9], 20)
    assert long.tokens == reference(model, LONG, 8)
    assert (began.degraded, whole.degraded) == ("cpu", "cpu")
    assert counted(driver) == {("decode", "cpu"): 1, ("prefill", "cpu"): 1}


def test_a_cpu_without_room_is_passed_over(folder):
    lane = OtherEngine(folder, "flat")
    lane.room = False
    driver, _ = short_driver(folder, "flat", too_long, fallbacks=["cpu", "simplified"], lane=lane)
    ticket, hit = driver.submit(LONG, 8)
    driver.run()
    assert (hit.finish, ticket.degraded) == ("stop", "simplified")


class TokenTower:
    """Media that are token ids, in pieces of ten; `fails` says of a call's tokens whether memory runs out."""

    def __init__(self, embedding, fails: Callable[[list[int]], bool] = lambda tokens: False, share: float = 1.0):
        self._embedding, self.fails, self._share = embedding, fails, share

    def pieces(self, prepared):
        return [
            Piece("tokens", -1, self._share, list(prepared.ids[at : at + 10])) for at in range(0, len(prepared.ids), 10)
        ]

    @torch.inference_mode()
    def encode(self, pieces, between):
        if self.fails([token for piece in pieces for token in piece.inputs]):
            raise cuda()
        return [self._embedding(torch.tensor(piece.inputs)) for piece in pieces]

    def merge(self, prepared, features):
        return Prompt(torch.cat(list(features)))


def media(ids, text=None):
    return Prepared(list(ids), media=object(), media_items=1, text_only=(lambda: Prepared(text)) if text else None)


def test_rows_with_media_are_read_again_from_their_embeddings(folder, kind):
    model = load_model(folder)
    wanted = prompts(4, seed=9)
    expected = [reference(model, ids, 12) for ids in wanted]
    tower = TokenTower(model.get_input_embeddings())
    driver, forward = short_driver(folder, kind, lambda batch: len(batch.tokens) > 2, embedder=tower)
    outcomes = [driver.submit_prepared(media(ids), 12)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected
    assert forward.failures >= 1


def test_a_tower_call_of_several_is_divided_and_one_beside_rows_waits_for_them(folder, kind):
    model = load_model(folder)
    busy = True

    def fails(tokens):
        return len(tokens) > 10 or (busy and 33 in tokens)

    tower = TokenTower(model.get_input_embeddings(), fails, share=0.3)
    driver, _ = short_driver(folder, kind, lambda batch: False, embedder=tower)
    _, running = driver.submit([7, 8, 9], 15)
    driver.engine.step()
    outcomes = [driver.submit_prepared(media(range(start, start + 10)), 6)[1] for start in (10, 30, 50)]
    while running.finish is None:
        driver.engine.step()
    busy = False
    driver.run()
    assert running.tokens == reference(model, [7, 8, 9], 15)
    for start, outcome in zip((10, 30, 50), outcomes, strict=True):
        assert outcome.tokens == reference(model, list(range(start, start + 10)), 6)
    assert set(counted(driver)) == {("tower", "shrink")}


@pytest.mark.parametrize(
    ("fallbacks", "text", "finish", "degraded"),
    [
        (("cpu", "text-only", "simplified"), [11, 12, 13], "length", "text-only"),
        (("cpu", "text-only", "simplified"), None, "stop", "simplified"),
        (("simplified", "text-only"), [11, 12, 13], "stop", "simplified"),
        ((), [11, 12, 13], "failed", None),
    ],
)
def test_media_that_never_fit_a_tower(folder, kind, fallbacks, text, finish, degraded):
    model = load_model(folder)
    tower = TokenTower(model.get_input_embeddings(), lambda tokens: 33 in tokens)
    driver, _ = short_driver(folder, kind, lambda batch: False, fallbacks=fallbacks, embedder=tower)
    _, running = driver.submit([7, 8, 9], 15)
    driver.engine.step()
    ticket, hit = driver.submit_prepared(media(range(30, 55), text), 6)
    _, other = driver.submit_prepared(media(range(60, 85)), 6)
    driver.run()
    assert (hit.finish, ticket.degraded) == (finish, degraded)
    assert running.tokens == reference(model, [7, 8, 9], 15)
    assert other.tokens == reference(model, list(range(60, 85)), 6)
    if degraded == "text-only":
        assert hit.tokens == reference(model, text, 6)
    if finish == "failed":
        assert "its media were encoded" in str(hit.error)


def test_a_prompt_with_media_that_is_too_long_is_read_without_them(folder, kind):
    model = load_model(folder)
    tower = TokenTower(model.get_input_embeddings())
    driver, _ = short_driver(folder, kind, too_long, fallbacks=["text-only"], embedder=tower)
    ticket, hit = driver.submit_prepared(media(LONG, [11, 12, 13]), 6)
    driver.run()
    assert (hit.finish, ticket.degraded) == ("length", "text-only")
    assert hit.tokens == reference(model, [11, 12, 13], 6)


def test_the_cpu_takes_media_before_and_after_the_towers(folder, kind):
    model = load_model(folder)
    lane = OtherEngine(folder, kind, TokenTower(model.get_input_embeddings()))
    tower = TokenTower(model.get_input_embeddings(), lambda tokens: 33 in tokens)
    driver, _ = short_driver(folder, kind, too_long, fallbacks=["cpu"], embedder=tower, lane=lane)
    before, first = driver.submit_prepared(media(range(30, 55)), 6)
    after, second = driver.submit_prepared(media(range(60, 105)), 6)
    driver.run()
    lane.driver.run()
    assert first.tokens == reference(model, list(range(30, 55)), 6)
    assert second.tokens == reference(model, list(range(60, 105)), 6)
    assert (before.degraded, after.degraded) == ("cpu", "cpu")


def test_a_cancelled_request_that_waits_alone_is_forgotten(folder):
    tower = TokenTower(load_model(folder).get_input_embeddings(), lambda tokens: 33 in tokens)
    driver, _ = short_driver(folder, "flat", lambda batch: False, fallbacks=["text-only"], embedder=tower)
    _, running = driver.submit([7, 8, 9], 15)
    driver.engine.step()
    ticket, hit = driver.submit_prepared(media(range(30, 55), [1]), 6)
    driver.engine.step()
    driver.engine.step()
    driver.engine.cancel(ticket)
    driver.run()
    assert (hit.finish, running.finish) == ("cancelled", "length")
    assert driver.engine.occupancy().waiting == 0


def test_a_lost_gpu_ends_the_engine(folder):
    driver, _ = short_driver(
        folder, "flat", lambda batch: True, lambda: RuntimeError("CUDA error: an illegal memory access was encountered")
    )
    _, hit = driver.submit([7, 8, 9], 4)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        driver.run()
    assert hit.finish == "failed"


def test_freed_cache_is_given_back_and_the_rows_keep_theirs(folder):
    model = load_model(folder)
    forward = forward_of("flat", load_model(folder), ROWS, LENGTH)
    driver = Driver(forward)
    outcomes = [driver.submit(ids, new)[1] for ids, new in (([7, 8, 9], 20), ([10, 11], 4))]
    for _ in range(8):
        driver.engine.step()
    for layer in forward.cache.layers:
        layer[-1] = 1.0  # as if a row had been there, at the end of the cache
    driver.engine.free_memory()
    driver.engine.step()
    assert not any(layer[-1].any() for layer in forward.cache.layers)
    driver.run()
    assert outcomes[0].tokens == reference(model, [7, 8, 9], 20)
    assert outcomes[1].tokens == reference(model, [10, 11], 4)
