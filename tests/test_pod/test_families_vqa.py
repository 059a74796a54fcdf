"""BLIP: answers equal transformers' own, alone and in a micro-batch of questions of different lengths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.families import vqa
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.port import EngineRefusal, Prepared, Sampling, TokenEvent
from ams_pod.media.items import Audio, Image, content_part
from ams_pod.shares import Share

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.family("vqa")

QUESTIONS = [
    "what is this",
    "how many red circles are there in the picture and where",
    "is it day or night",
    "what colour is the sky, the sea and the sand",
    "where",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from fakehub.checkpoints import make

    return make("blip_vqa", tmp_path_factory.mktemp("blip"), dtype="float32")


class Answers:
    """An engine in this thread, and the tokens that its requests got."""

    def __init__(self, folder: Path) -> None:
        self.events: list[TokenEvent] = []
        settings = ServeSettings(name="blip", source="file:///x", concurrent_requests=8)
        self.engine = vqa.open_family(
            LoadRequest(folder, settings, "cpu", torch.float32, self.events.extend, lambda phase, percent: None)
        )

    def prepare(self, index: int) -> Prepared:
        pixels = np.random.default_rng(index).integers(0, 255, (60 + 20 * index, 90, 3), np.uint8)
        content = [content_part(Image(pixels)), {"type": "text", "text": QUESTIONS[index]}]
        return self.engine.prepare_chat([{"role": "user", "content": content}])

    def tokens(self, ticket: Any) -> list[int]:
        return [event.token for event in self.events if event.ticket is ticket and event.token is not None]

    def finish(self, ticket: Any) -> str | None:
        return next((event.finish for event in self.events if event.ticket is ticket and event.finish), None)


@pytest.fixture
def answers(folder: Path) -> Answers:
    return Answers(folder)


def expected(answers: Answers, prepared: Prepared, count: int) -> list[int]:
    model = answers.engine.core._model
    made = model.generate(
        input_ids=torch.tensor([list(prepared.ids)]),
        pixel_values=prepared.media[None],
        max_new_tokens=count,
        do_sample=False,
    )[0]
    return made[1:].tolist()  # without the start token


def test_a_mixed_batch_answers_as_each_question_alone(answers: Answers) -> None:
    counts = [3, 12, 7, 12, 9]
    prepared = [answers.prepare(index) for index in range(5)]
    tickets = [answers.engine.submit(each, Sampling(count), None) for each, count in zip(prepared, counts, strict=True)]
    assert answers.engine.core.step()
    found = [answers.tokens(ticket) for ticket in tickets]
    assert found == [expected(answers, each, count) for each, count in zip(prepared, counts, strict=True)]
    assert len({tuple(each[:3]) for each in found}) > 2  # else the answers wouldn't depend on anything
    assert not answers.engine.core.step()


def test_a_cancelled_request_leaves_and_the_others_go_on(answers: Answers) -> None:
    prepared = [answers.prepare(index) for index in (1, 3)]
    first = answers.engine.submit(prepared[0], Sampling(12, ignore_eos=True), None)
    second = answers.engine.submit(prepared[1], Sampling(12), None)
    original = answers.engine.core._publish
    steps = 0

    def publish(events: list[TokenEvent]) -> None:
        nonlocal steps
        steps += 1
        if steps == 3:
            answers.engine.core.cancel(first)
        original(events)

    answers.engine.core._publish = publish
    answers.engine.core.step()
    assert answers.finish(first) == "cancelled"
    assert len(answers.tokens(first)) == 3
    assert answers.tokens(second) == expected(answers, prepared[1], 12)


def test_one_bad_image_fails_alone(answers: Answers) -> None:
    good, bad = answers.prepare(0), answers.prepare(1)
    broken = Prepared(bad.ids, media=bad.media[:2], media_items=1)
    tickets = [answers.engine.submit(each, Sampling(4), None) for each in (good, broken, good)]
    answers.engine.core.step()
    assert [answers.finish(ticket) == "failed" for ticket in tickets] == [False, True, False]
    assert answers.tokens(tickets[0]) == answers.tokens(tickets[2]) == expected(answers, good, 4)


def test_words_come_out(answers: Answers) -> None:
    ticket = answers.engine.submit(answers.prepare(2), Sampling(6), None)
    answers.engine.core.step()
    detokenizer = answers.engine.detokenizer()
    text = "".join(detokenizer.push(token) for token in answers.tokens(ticket))
    tokenizer = answers.engine._processor.tokenizer
    assert text.strip() == tokenizer.decode(answers.tokens(ticket), skip_special_tokens=True).strip() != ""


IMAGE = content_part(Image(np.zeros((32, 32, 3), np.uint8)))
TEXT = {"type": "text", "text": "what"}


@pytest.mark.parametrize(
    ("messages", "kind", "sentence"),
    [
        ([{"role": "user", "content": "what is it"}], "invalid-prompt", "exactly one image; there are 0"),
        ([{"role": "user", "content": [IMAGE, IMAGE, TEXT]}], "invalid-prompt", "there are 2"),
        ([{"role": "user", "content": [IMAGE]}], "missing-prompt", "no question"),
        (
            [{"role": "system", "content": "x"}, {"role": "user", "content": [IMAGE, TEXT]}],
            "invalid-prompt",
            "no system prompt",
        ),
        (
            [{"role": "user", "content": [content_part(Audio(np.zeros(9, np.float32), 16000)), TEXT]}],
            "unsupported-modality",
            "not audio",
        ),
        (
            [{"role": "user", "content": [IMAGE, {"type": "text", "text": "what " * 600}]}],
            "context-length-exceeded",
            "maximum context length is 512",
        ),
    ],
)
def test_what_it_cannot_answer_is_refused(
    answers: Answers, messages: list[dict[str, Any]], kind: str, sentence: str
) -> None:
    with pytest.raises(EngineRefusal, match=sentence) as refused:
        answers.engine.prepare_chat(messages)
    assert refused.value.kind == kind


def test_text_completions_are_refused(answers: Answers) -> None:
    with pytest.raises(EngineRefusal, match="needs an image"):
        answers.engine.prepare_text("x")
    with pytest.raises(EngineRefusal, match="needs an image"):
        answers.engine.prepare_ids([1])


def test_the_time_of_a_batch_is_shared_out_over_its_requests(answers: Answers) -> None:
    good, bad = answers.prepare(0), answers.prepare(1)
    broken = Prepared(bad.ids, media=bad.media[:2], media_items=1)
    before = answers.engine.counters.busy_seconds
    tickets = [answers.engine.submit(each, Sampling(9), None) for each in (good, broken, good, good)]
    answers.engine.cancel(tickets[3])
    answers.engine.core.step()
    spent = answers.engine.counters.busy_seconds - before
    assert sum(ticket.compute_seconds for ticket in tickets) == pytest.approx(spent, rel=0.01)
    assert tickets[1].compute_seconds > 0
    assert tickets[3].compute_seconds == 0


def test_a_key_that_was_served_less_is_in_the_next_batch(answers: Answers) -> None:
    core, prepared = answers.engine.core, answers.prepare(0)
    core._shares.charge(Share("busy"), 100.0)
    core._shares.charge(Share("busy"), 1.0)
    busy = [core.submit(prepared, Sampling(2), None, Share("busy")) for _ in range(core._max_rows + 3)]
    chat = core.submit(prepared, Sampling(2), None, Share("chat"))
    core.step()
    assert chat.started_at is not None
    assert [ticket.started_at is not None for ticket in busy] == [True] * (core._max_rows - 1) + [False] * 4
    core.step()
    assert all(ticket.started_at is not None for ticket in busy)
