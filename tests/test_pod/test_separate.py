"""Requests computed apart, by the model's own forward: what `generate` gives each alone, whatever the others do."""

import logging
from typing import Any

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.choosing import choose_separate
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.separate import SeparateForward
from ams_pod.engines.builtin.prompts.chat_format import chat_format
from ams_pod.engines.builtin.prompts.processor_prompts import ProcessorPrompts
from ams_pod.engines.builtin.scheduler.oom_policy import OomFallbacks
from ams_pod.engines.port import EngineRefusal, LoadFailed
from engine_harness import Driver, Outcome
from fakehub import checkpoints
from families_harness import Family, image, user

ROWS, LENGTH = 3, 2400
WHAT, WHERE = "what is said in this picture", "where is the dog, and why is it blue"
CASES = [
    ([image(0, 90, 120), WHAT], 12),
    ([WHERE], 20),
    ([image(1, 200, 60), image(2, 64, 64), WHERE], 9),
    ([image(3, 130, 130), WHAT], 24),
    (["no"], 16),
]


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """Qwen2.5-VL: its model keeps the positions of the last prompt with images in itself."""
    folder = checkpoints.make("qwen2_5_vl", tmp_path_factory.mktemp("separate") / "vl", dtype="float32")
    return Family("vision-language", folder, scaled=False)


@pytest.fixture(scope="module")
def prompts(family: Family) -> ProcessorPrompts:
    return ProcessorPrompts(family.processor, chat_format(family.processor), LENGTH)


@pytest.fixture(scope="module")
def expected(family: Family) -> list[list[int]]:
    return [family.generate(family.inputs(*content), new) for content, new in CASES]


@pytest.fixture
def model(family: Family) -> Any:
    return family.load_model()


def driver_of(model: Any, *fallbacks: Any) -> Driver:
    return Driver(SeparateForward(model, ROWS, LENGTH), fallbacks=OomFallbacks(fallbacks))


def submit(driver: Driver, prompts: ProcessorPrompts, index: int) -> tuple[Any, Outcome]:
    content, new = CASES[index]
    return driver.submit_prepared(prompts.chat(user(*content)), new, ignore_eos=True)


class Failing:
    """An error at one pass of the model: that of call `call`, among those of requests with `tokens` or more."""

    def __init__(self, model: Any, call: int, error: Exception, tokens: int = 0, times: int = 1) -> None:
        self._calls, self._error, self._tokens, self._times = call, error, tokens, times
        model.register_forward_pre_hook(self._fail, with_kwargs=True)

    def _fail(self, model: Any, arguments: Any, named: dict[str, Any]) -> None:
        if named["past_key_values"].get_seq_length() + named["input_ids"].shape[1] < self._tokens:
            return
        self._calls -= 1
        if self._calls < 0 and self._times > 0:
            self._times -= 1
            raise self._error


def no_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_prompts_are_those_of_the_processor(family, prompts):
    for content, _ in CASES:
        assert list(prompts.chat(user(*content)).ids) == family.inputs(*content)["input_ids"][0].tolist()


def test_requests_that_come_and_go_get_what_generate_gives(model, prompts, expected):
    """More requests than rows; they join at different steps, and two are cancelled on the way."""
    driver = driver_of(model)
    leaving = [submit(driver, prompts, 3), submit(driver, prompts, 0)]
    outcomes = []
    for index in range(len(CASES)):
        driver.engine.step()
        outcomes.append(submit(driver, prompts, index)[1])
    for ticket, _ in leaving:
        driver.engine.cancel(ticket)
    made = [len(outcome.tokens) for _, outcome in leaving]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected
    assert driver.engine.occupancy().running == 0
    assert [(outcome.finish, len(outcome.tokens)) for _, outcome in leaving] == [("cancelled", n) for n in made]


def test_who_is_running_gets_a_token_between_two_prompts(model, prompts):
    driver = driver_of(model)
    outcomes = [submit(driver, prompts, index)[1] for index in (3, 0, 2)]
    made = []
    for _ in range(4):
        driver.engine.step()
        made.append([len(outcome.tokens) for outcome in outcomes])
    assert made == [[1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2]]


@pytest.mark.parametrize("call", [0, 2, 5])
def test_an_error_ends_one_request_and_the_others_never_notice(model, prompts, expected, call, caplog):
    driver = driver_of(model)
    long = len(prompts.chat(user(*CASES[2][0])).ids)  # only that of two images has so many
    Failing(model, call, ValueError("no such image"), tokens=long)
    outcomes = [submit(driver, prompts, index)[1] for index in (0, 2, 1)]
    with caplog.at_level(logging.ERROR):
        driver.run()
    assert (outcomes[1].finish, str(outcomes[1].error)) == ("failed", "no such image")
    assert outcomes[1].tokens == expected[2][:call]
    assert [outcomes[0].tokens, outcomes[2].tokens] == [expected[0], expected[1]]


@pytest.mark.parametrize("call", [0, 3])
def test_memory_that_runs_out_beside_others_is_enough_without_them(model, prompts, expected, call):
    driver = driver_of(model)
    long = len(prompts.chat(user(*CASES[2][0])).ids)
    Failing(model, call, no_memory(), tokens=long)
    outcomes = [submit(driver, prompts, index)[1] for index in (0, 2, 1)]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == [expected[0], expected[2], expected[1]]
    assert driver.engine.counters.out_of_memory == {("prefill" if call == 0 else "decode", "shrink"): 1}


@pytest.mark.parametrize(
    ("fallbacks", "finish", "degraded"),
    [((), "failed", None), (("simplified",), "stop", "simplified"), (("text-only",), "length", "text-only")],
)
def test_memory_that_is_never_enough_for_one(family, model, prompts, expected, fallbacks, finish, degraded):
    driver = driver_of(model, *fallbacks)
    Failing(model, 0, no_memory(), tokens=len(prompts.chat(user(*CASES[2][0])).ids), times=1000)
    ticket, hit = submit(driver, prompts, 2)
    _, other = submit(driver, prompts, 4)
    driver.run()
    assert other.tokens == expected[4]
    assert (hit.finish, ticket.degraded) == (finish, degraded)
    if degraded == "text-only":
        assert hit.tokens == family.generate(family.inputs(WHERE), CASES[2][1])
    elif degraded is None:
        assert isinstance(hit.error, EngineRefusal)
        assert hit.error.kind == "out-of-memory"


def test_tokens_that_the_model_forbids_are_never_drawn(model, prompts, expected):
    model.generation_config.suppress_tokens = [expected[0][0]]
    driver = driver_of(model)
    _, outcome = submit(driver, prompts, 0)
    driver.run()
    assert expected[0][0] not in outcome.tokens


# What is checked when a model is loaded


def choose(model: Any, prompts: ProcessorPrompts) -> SeparateForward:
    settings = ServeSettings(name="x", source="file:///x", concurrent_requests=ROWS)
    request = LoadRequest(None, settings, "cpu", torch.float32, None, None)
    return choose_separate(model, lambda: [prompts.chat(user(*CASES[n][0])) for n in (0, 1)], request, LENGTH)


def test_a_model_is_served_beside_others_after_its_check(model, prompts):
    assert choose(model, prompts).max_rows == ROWS


def test_a_model_that_keeps_something_of_the_last_prompt_computes_one_at_a_time(model, prompts, caplog):
    kept: list[int] = [0]

    def shift(model: Any, arguments: Any, named: dict[str, Any], output: Any) -> Any:
        if named["input_ids"].shape[1] > 1:
            kept[0] = int(named["input_ids"].sum()) % 90
        output.logits = output.logits.roll(kept[0], -1)
        return output

    model.register_forward_hook(shift, with_kwargs=True)
    with caplog.at_level(logging.WARNING):
        assert choose(model, prompts).max_rows == 1
    assert "requests of Qwen2_5_VLForConditionalGeneration disturb each other" in caplog.text


def test_a_model_that_differs_from_its_own_generate_is_not_served(model, prompts):
    calls: list[int] = []

    def shift(model: Any, arguments: Any, output: Any) -> Any:
        calls.append(1)
        output.logits = output.logits.roll(len(calls), -1)
        return output

    model.register_forward_hook(shift)
    with pytest.raises(LoadFailed, match=r"answers differently \(by .*\) from transformers' generate"):
        choose(model, prompts)


def test_a_model_that_cannot_be_driven_is_not_served(model, prompts):
    Failing(model, 7, TypeError("forward() lacks an argument"))  # generate's own passes come first
    with pytest.raises(LoadFailed, match=r"token by token .*\(TypeError: forward\(\) lacks an argument\)"):
        choose(model, prompts)
