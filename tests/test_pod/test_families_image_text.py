"""Image-text-to-text: models that differ in all that matters answer as transformers' generate, alone and among others.

SmolVLM's processor divides images into tiles, Gemma 3's images attend to all of themselves beside layers that look back
a little, LLaVA puts a CLIP tower in front of a Llama, and Llama 3.2's layers attend across to the image.
"""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from ams_common.families import BY_NAME, family_of
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.causal_lm import CausalLmEngine
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.port import EngineRefusal, LoadFailed, Sampling, Ticket, TokenEvent
from ams_pod.media.items import Image
from engine_harness import Outcome
from fakehub import checkpoints
from families_harness import image, torchvision_shim, user

torchvision_shim.install()
pytestmark = [pytest.mark.family("image-text-to-text"), pytest.mark.slow]

KINDS = ["idefics3", "gemma3", "llava", "mllama"]
WHAT, WHERE = "what is in this picture", "where is the dog, and why is it blue"
CASES = [
    [image(0, 90, 120), WHAT],
    [WHERE],
    [image(1, 200, 64), image(2, 64, 64), WHERE],
    [image(3, 56, 150), WHAT, image(4, 150, 150), image(5, 300, 90), "and then"],
    ["no"],
    [image(6, 90, 120), WHAT],
]
NEW = [12, 34, 9, 24, 16, 11]


class Served:
    """A loaded engine whose events are kept by request, and transformers' own model beside it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        values = {"precision": "float32", "concurrent_requests": 3, "threads": 1, "context_tokens": 1024} | settings
        self.engine: CausalLmEngine = load_engine(
            folder, ServeSettings(name="x", source="file:///x", **values), self._publish, lambda phase, percent: None
        )
        self._processor = AutoProcessor.from_pretrained(folder)
        self._model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None

    def _publish(self, events: list[TokenEvent]) -> None:
        for event in events:
            outcome = event.ticket.sink
            assert outcome.finish is None, "an event after the end"
            if event.token is not None:
                outcome.tokens.append(event.token)
            outcome.finish, outcome.error = event.finish, event.error

    def submit(self, content: list[Any], new: int, **sampling: Any) -> tuple[Ticket, Outcome]:
        outcome = Outcome()
        prepared = self.engine.prepare_chat(user(*content))
        return self.engine.submit(prepared, Sampling(new, **({"ignore_eos": True} | sampling)), outcome), outcome

    def run(self) -> None:
        while self.engine.core.step():
            pass

    def inputs(self, content: list[Any]) -> dict[str, Any]:
        """What the processor makes of the prompt, as its documentation has it."""
        parts = [
            {"type": "image", "image": PIL.Image.fromarray(item.pixels)}
            if isinstance(item, Image)
            else {"type": "text", "text": item}
            for item in content
        ]
        return dict(
            self._processor.apply_chat_template(
                [{"role": "user", "content": parts}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        )

    @functools.cache  # noqa: B019  # of one module's tests
    def expected(self, index: int) -> list[int]:
        inputs = self.inputs(CASES[index])
        made = self._model.generate(**inputs, max_new_tokens=NEW[index], do_sample=False)
        return made[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base = tmp_path_factory.mktemp("image-text")
    return functools.cache(lambda kind: checkpoints.make(kind, base / kind, dtype="float32"))


@pytest.fixture(scope="module")
def served_of(folder_of: Callable[[str], Path]) -> Callable[[str], Served]:
    return functools.cache(lambda kind: Served(folder_of(kind)))


@pytest.fixture(params=KINDS)
def served(request: pytest.FixtureRequest, served_of: Callable[[str], Served]) -> Served:
    return served_of(request.param)


def test_it_is_served_by_its_architecture_after_its_check(served):
    info = served.engine.info
    assert family_of([info.architecture]) == BY_NAME["image-text-to-text"]
    assert (info.family, info.engine, info.concurrent_requests) == ("image-text-to-text", "separate", 3)
    assert served.engine.capabilities.modalities == ("image", "text")


def test_prompts_are_those_of_the_processor(served):
    for content in CASES:
        prepared = served.engine.prepare_chat(user(*content))
        inputs = served.inputs(content)
        assert list(prepared.ids) == inputs.pop("input_ids")[0].tolist()
        assert prepared.media.keys() == inputs.keys()
        assert all(torch.equal(prepared.media[name], inputs[name]) for name in inputs)


def test_answers_depend_on_the_images(served):
    assert len({tuple(served.expected(index)[:4]) for index in range(len(CASES))}) == len(CASES)


def test_alone_equals_generate(served):
    for index, content in enumerate(CASES):
        _, outcome = served.submit(content, NEW[index])
        served.run()
        assert (outcome.finish, outcome.error) == ("length", None)
        assert outcome.tokens == served.expected(index)


def test_requests_that_come_and_go_equal_generate(served):
    """More requests than run at a time, each joining at another token; two are cancelled, and end within a step."""
    leaving = [served.submit(CASES[3], 400), served.submit(CASES[0], 400)]
    outcomes = []
    for index, content in enumerate(CASES):
        outcomes.append(served.submit(content, NEW[index])[1])
        served.engine.core.step()
    assert (served.engine.occupancy().running, served.engine.occupancy().waiting) == (3, 5)
    made = [len(outcome.tokens) for _, outcome in leaving]
    for ticket, _ in leaving:
        served.engine.cancel(ticket)
    served.engine.core.step()
    assert [(outcome.finish, len(outcome.tokens)) for _, outcome in leaving] == [("cancelled", n) for n in made]
    served.run()
    assert [outcome.tokens for outcome in outcomes] == [served.expected(index) for index in range(len(CASES))]
    assert served.engine.occupancy().running == 0


def test_a_seed_draws_the_same_beside_others(served):
    alone = served.submit(CASES[2], 12, temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=7)[1]
    served.run()
    others = [served.submit(CASES[0], 20)[1], served.submit(CASES[4], 20, temperature=1.0, seed=1)[1]]
    beside = served.submit(CASES[2], 12, temperature=0.8, top_p=0.9, repetition_penalty=1.2, seed=7)[1]
    served.run()
    assert beside.tokens == alone.tokens
    assert [len(outcome.tokens) for outcome in others] == [20, 20]


def test_an_answer_ends_at_the_tokens_of_generation_config(folder_of, tmp_path, served_of):
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "llava"))
    tokens = served_of("llava").expected(0)
    config = json.loads((folder / "generation_config.json").read_text())
    stop = next(token for token in tokens[3:] if token not in tokens[:3])
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": [1, stop]}))
    served = Served(folder)
    _, outcome = served.submit(CASES[0], 12, ignore_eos=False)
    served.run()
    assert (outcome.finish, outcome.tokens) == ("stop", tokens[: tokens.index(stop) + 1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_context_counts_every_token_of_an_image(folder_of, served_of, kind):
    tokens = len(served_of(kind).engine.prepare_chat(user(*CASES[0])).ids)
    served = Served(folder_of(kind), context_tokens=max(tokens + 4, 32))
    _, outcome = served.submit(CASES[0], 500)
    served.run()
    assert (outcome.finish, len(outcome.tokens)) == ("length", served.engine.info.context_tokens - tokens)
    with pytest.raises(
        EngineRefusal, match=r"context length is \d+ tokens\. The prompt is too long: with \d+"
    ) as refused:
        served.submit([*CASES[3], "more " * 40], 5)
    assert refused.value.kind == "context-length-exceeded"


def test_a_checkpoint_without_a_chat_template_is_not_served(folder_of, tmp_path):
    folder = Path(shutil.copytree(folder_of("llava"), tmp_path / "llava"))
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(LoadFailed, match=r"^the model has no chat template .*; use a model that was tuned for chats$"):
        Served(folder)


def test_weights_in_4_bits_leave_the_tower_as_it_is(folder_of):
    served = Served(folder_of("llava"), quantization="4bit")
    kinds = {name: type(module).__name__ for name, module in served.engine.core._forward.model.named_modules()}
    assert kinds["model.language_model.layers.0.self_attn.q_proj"] == "GroupedLinear"
    assert "GroupedLinear" not in {kind for name, kind in kinds.items() if "tower" in name or "projector" in name}
    _, outcome = served.submit(CASES[0], 5)
    served.run()
    assert (outcome.finish, len(outcome.tokens)) == ("length", 5)
