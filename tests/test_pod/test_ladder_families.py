"""Memory runs out in the towers of the real families, in BLIP, on a CPU lane; and what is refused before it starts."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.families import vqa
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.padded import PaddedForward
from ams_pod.engines.builtin.scheduler import admission
from ams_pod.engines.builtin.scheduler.core import EngineCore
from ams_pod.engines.builtin.scheduler.cpu_copy import CpuCopy
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks
from ams_pod.engines.port import EngineRefusal, Prepared, Sampling, TokenEvent
from ams_pod.media.items import Image, content_part
from engine_harness import Driver, forward_of, load_model, reference
from fakehub import checkpoints
from families_harness import CONTEXT, Family, audio, image, video

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def failing(tower: Any, large: int) -> Any:
    """A tower that memory runs out for when a call holds an input of at least `large` rows."""

    def encode(inputs: Any) -> Any:
        if any(_rows(each) >= large for each in inputs):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return tower(inputs)

    return encode


def _rows(inputs: Any) -> int:
    """Patches of an image, or frames of a spectrogram."""
    return int(inputs.pixels.shape[0] if hasattr(inputs, "pixels") else inputs.shape[-1])


CASES = [
    ("vision-language", "qwen2_5_vl", "vision", lambda: [image(1, 224, 224), "what is it"], lambda: [image(2, 56, 56)]),
    ("omni", "qwen2_5_omni", "vision", lambda: [image(1, 224, 224), "what is it"], lambda: [audio(2, 1.0), "and"]),
    ("omni", "qwen2_5_omni", "audio", lambda: [audio(1, 6.0), "what is it"], lambda: [image(2, 56, 56), "and"]),
    ("omni", "qwen2_5_omni", "audio", lambda: [video(1, 2, 6.0), "what is it"], lambda: [audio(2, 1.0), "and"]),
]


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    made: dict[str, Family] = {}

    def get(name: str, kind: str) -> Family:
        if name not in made:
            made[name] = Family(name, checkpoints.make(kind, tmp_path_factory.mktemp(kind) / kind, dtype="float32"))
        return made[name]

    return get


@pytest.mark.parametrize(("name", "kind", "tower", "large", "small"), CASES)
@pytest.mark.parametrize("fallbacks", [("cpu", "text-only", "simplified"), ("simplified",), ()])
def test_media_that_a_tower_has_no_memory_for(families, name, kind, tower, large, small, fallbacks):
    """Answered from the text alone, with the fixed words or not at all; a request beside it is as ever."""
    family = families(name, kind)
    expected = family.generate(family.inputs(*small()), 6)
    text = family.generate(family.inputs("what is it"), 6)
    model = family.load_model()
    embedder = family.recipe.embedder(model)
    embedder._towers = {**embedder._towers, tower: failing(embedder._towers[tower], 200)}
    driver = Driver(PaddedForward(model, 4, CONTEXT), embedder=embedder, fallbacks=OomFallbacks(fallbacks))
    ticket, hit = driver.submit_prepared(family.prepare(*large()), 6)
    _, other = driver.submit_prepared(family.prepare(*small()), 6)
    driver.run()
    assert other.tokens == expected
    if "text-only" in fallbacks:
        assert (hit.finish, ticket.degraded, hit.tokens) == ("length", "text-only", text)
    elif fallbacks:
        assert (hit.finish, ticket.degraded, hit.tokens) == ("stop", "simplified", [])
    else:
        assert isinstance(hit.error, EngineRefusal)
    assert ("tower", ticket.rungs[-1]) in driver.engine.counters.out_of_memory


def test_an_audio_model_without_its_clip(families):
    family = families("audio-language", "qwen2_audio")
    model = family.load_model()
    embedder = family.recipe.embedder(model)

    def no_memory(inputs: Any) -> Any:
        raise torch.OutOfMemoryError("injected")

    embedder._towers = dict.fromkeys(embedder._towers, no_memory)
    driver = Driver(PaddedForward(model, 2, CONTEXT), embedder=embedder, fallbacks=OomFallbacks(("text-only",)))
    ticket, hit = driver.submit_prepared(family.prepare(audio(1, 2.0), "what is said"), 6)
    driver.run()
    assert (hit.finish, ticket.degraded) == ("length", "text-only")
    assert hit.tokens == family.generate(family.inputs("what is said"), 6)


def test_media_without_words_have_no_text_to_fall_back_to(families):
    family = families("vision-language", "qwen2_5_vl")
    assert family.prepare(image(1, 56, 56)).text_only is None
    assert family.prepare(image(1, 56, 56), " ").text_only is None
    prepared = family.prepare(image(1, 56, 56), "hello")
    assert prepared.text_only is not None
    assert list(prepared.text_only().ids) == list(family.prepare("hello").ids)


# BLIP

QUESTIONS = ["what is this", "how many red circles are there in the picture", "is it day"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.make("blip_vqa", tmp_path_factory.mktemp("blip"), dtype="float32")


class Blip:
    def __init__(self, folder: Path, fallbacks: str = "") -> None:
        self.events: list[TokenEvent] = []
        settings = ServeSettings(name="blip", source="file:///x", concurrent_requests=8, fallbacks=fallbacks)
        self.vqa = vqa.open_family(
            LoadRequest(folder, settings, "cpu", torch.float32, self.events.extend, lambda phase, percent: None)
        )
        self.engine = self.vqa.core

    def ask(self, count: int) -> list[Any]:
        tickets = []
        for index in range(count):
            pixels = np.random.default_rng(index).integers(0, 255, (60, 90, 3), np.uint8)
            content = [content_part(Image(pixels)), {"type": "text", "text": QUESTIONS[index]}]
            prepared = self.vqa.prepare_chat([{"role": "user", "content": content}])
            tickets.append(self.vqa.submit(prepared, Sampling(5 + index, ignore_eos=True), None))
        while self.engine.step():
            pass
        return tickets

    def outcome(self, ticket: Any) -> tuple[list[int], str | None]:
        mine = [event for event in self.events if event.ticket is ticket]
        assert [event.finish is not None for event in mine] == [False] * (len(mine) - 1) + [True]
        return [event.token for event in mine if event.token is not None], mine[-1].finish

    def fail(self, method: str, when: Any) -> None:
        real = getattr(self.engine, method)
        calls = iter(range(1000))

        def short(rows: Any, *arguments: Any) -> Any:
            if when(len(rows), next(calls)):
                raise torch.OutOfMemoryError("injected")
            return real(rows, *arguments)

        setattr(self.engine, method, short)


@pytest.mark.parametrize("method", ["_encode", "_decode"])
@pytest.mark.parametrize("failing_call", [0, 2])
def test_blip_answers_one_by_one_what_does_not_fit_together(blip, method, failing_call):
    whole = Blip(blip)
    expected = [whole.outcome(ticket) for ticket in whole.ask(3)]
    short = Blip(blip)
    short.fail(method, lambda rows, call: rows > 1 and call >= failing_call)
    tickets = short.ask(3)
    assert [short.outcome(ticket) for ticket in tickets] == expected
    assert all(ticket.degraded is None for ticket in tickets)
    counted = short.engine.counters.out_of_memory
    if method == "_decode" or failing_call == 0:
        assert counted == {("tower" if method == "_encode" else "decode", "shrink"): 3}


@pytest.mark.parametrize(
    ("fallbacks", "finish", "degraded"),
    [("", "failed", None), ("cpu,text-only", "failed", None), ("cpu,text-only,simplified", "stop", "simplified")],
)
@pytest.mark.parametrize("method", ["_encode", "_decode"])
def test_blip_without_memory_for_one_request(blip, fallbacks, finish, degraded, method):
    short = Blip(blip, fallbacks)
    short.fail(method, lambda rows, call: True)
    (ticket,) = short.ask(1)
    assert short.outcome(ticket) == ([], finish)
    assert ticket.degraded == degraded
    if finish == "failed":
        assert isinstance(short.events[-1].error, EngineRefusal)
        assert "are free" in str(short.events[-1].error)


def test_blip_keeps_what_was_said_and_ends_with_an_error(blip):
    short = Blip(blip, "simplified")
    short.fail("_decode", lambda rows, call: call >= 2)
    (ticket,) = short.ask(1)
    tokens, finish = short.outcome(ticket)
    assert (len(tokens), finish, ticket.degraded) == (2, "failed", None)


# The lane on the CPU


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("lane") / "qwen3")


class Sink:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = threading.Event()
        self.last: TokenEvent | None = None

    def publish(self, events: list[TokenEvent]) -> None:
        for event in events:
            if event.token is not None:
                self.tokens.append(event.token)
            if event.finish is not None:
                self.last = event
                self.ended.set()


def run_on_lane(qwen3: Path, sink: Sink, load: Any) -> Any:
    lane = CpuCopy(load, 1000, lambda: 2000, sink.publish)
    assert lane.fits()

    class Nothing:
        """A GPU that has no memory at all."""

        def __getattr__(self, name: str) -> Any:
            return getattr(forward, name)

        def step(self, batch: Any) -> Any:
            raise torch.OutOfMemoryError("injected")

    forward = forward_of("padded", load_model(qwen3), 2, 64)
    engine = EngineCore(Nothing(), frozenset(), sink.publish, None, OomFallbacks(("cpu",), "cpu", lane))  # type: ignore[arg-type]
    ticket = engine.submit(Prepared([7, 8, 9]), Sampling(6), None)
    while engine.step():
        pass
    assert sink.ended.wait(60)
    lane.stop()
    assert ticket.compute_seconds == pytest.approx(engine.refreshed_counters().compute_seconds, rel=0.01)
    return ticket


def test_the_lane_loads_a_model_and_answers(qwen3):
    sink = Sink()
    ticket = run_on_lane(
        qwen3, sink, lambda: EngineCore(forward_of("flat", load_model(qwen3), 1, 64), frozenset(), sink.publish)
    )
    assert sink.tokens == reference(load_model(qwen3), [7, 8, 9], 6)
    assert ticket.degraded == "cpu"


def test_a_lane_that_cannot_load_fails_its_requests(qwen3):
    def load() -> EngineCore:
        raise MemoryError

    sink = Sink()
    run_on_lane(qwen3, sink, load)
    assert sink.last is not None
    assert isinstance(sink.last.error, EngineRefusal)


def test_a_lane_without_memory_does_not_fit():
    assert not CpuCopy(lambda: pytest.fail("loaded"), 1000, lambda: 999, lambda events: None).fits()


# Admission


@pytest.mark.parametrize(
    ("prompt", "new", "room", "answer"),
    [
        (100, 50, 15_000, 50),
        (100, 50, 14_999, 49),  # the cache ends it
        (100, 500, 20_000, 100),  # the context ends it
        (100, 50, 10_199, 1),
        (100, 50, 10_099, ("out-of-memory", "100 tokens of prompt take 9.9 KiB of cache; 9.9 KiB are free with")),
        (200, 1, 1 << 40, ("context-length-exceeded", "with 200 tokens and an answer it exceeds the context window")),
    ],
)
def test_an_answer_is_as_long_as_it_can_be(prompt, new, room, answer):
    found = admission.new_tokens_for(prompt, new, context_tokens=200, bytes_per_token=100, room=room)
    if isinstance(answer, int):
        assert found == answer
    else:
        assert (found.kind, answer[1] in str(found)) == (answer[0], True)


def test_an_engine_refuses_what_cannot_fit(qwen3, monkeypatch):
    from ams_pod.engines.builtin.families import text
    from ams_pod.engines.builtin.load_request import LoadRequest
    from ams_pod.engines.builtin.memory import device_memory

    settings = ServeSettings(name="m", source="file:///m", concurrent_requests=2, context_tokens=64)
    engine = text.open_family(
        LoadRequest(qwen3, settings, "cpu", torch.float32, lambda events: None, lambda phase, percent: None)
    )
    engine.submit(Prepared([7, 8, 9]), Sampling(4), None)
    monkeypatch.setattr(device_memory, "free_bytes", lambda device, limits: 1000)
    with pytest.raises(EngineRefusal, match="are free with nothing else running") as refused:
        engine.submit(Prepared([7, 8, 9]), Sampling(4), None)
    assert refused.value.kind == "out-of-memory"
    with pytest.raises(EngineRefusal, match="with 64 tokens and an answer it exceeds"):
        engine.submit(Prepared([7] * 64), Sampling(4), None)
