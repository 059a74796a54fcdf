"""Prompts by a processor of transformers: how its chat template is found out, what is refused, what stays as it is."""

import copy
import threading
from typing import Any

import numpy as np
import pytest
import torch
from ams_pod.engines.builtin.prompts.chat_format import chat_format
from ams_pod.engines.builtin.prompts.processor_prompts import ProcessorPrompts
from ams_pod.engines.port import EngineRefusal, LoadFailed
from ams_pod.media.items import Image
from fakehub import checkpoints
from fakehub.tiny_tokenizer import CHATML, GEMMA, LLAMA_VISION, LLAVA, SMOLVLM
from families_harness import audio, image, torchvision_shim, user, video

torchvision_shim.install()
MARK = "<|image_pad|>"
IMAGE_OF_TEMPLATE = {GEMMA: "<start_of_image>", LLAMA_VISION: "<|image|>"}


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(checkpoints.make("qwen2_5_vl", tmp_path_factory.mktemp("prompts") / "vl"))


@pytest.fixture
def with_template(processor: Any) -> Any:
    def changed(template: str | None) -> Any:
        other = copy.copy(processor)
        if template is not None:
            template = template.replace(IMAGE_OF_TEMPLATE.get(template, "<image>"), MARK)
        other.chat_template = template
        return other

    return changed


def prompts_of(processor: Any, context: int = 2400) -> ProcessorPrompts:
    return ProcessorPrompts(processor, chat_format(processor), context)


@pytest.mark.parametrize("template", [SMOLVLM, GEMMA, LLAVA, LLAMA_VISION], ids=["smolvlm", "gemma", "llava", "llama"])
def test_templates_of_the_field_are_understood(with_template, template):
    """A system prompt, several turns, images: each text comes out once, and none as Python."""
    prompts = prompts_of(with_template(template))
    messages = [
        {"role": "system", "content": "be short"},
        *user(image(0, 60, 60), "first"),
        {"role": "assistant", "content": "a cat"},
        *user("second", image(1, 60, 90), image(2, 60, 60)),
    ]
    prepared = prompts.chat(messages)
    text = prompts._fast.decode(list(prepared.ids), skip_special_tokens=False)
    assert [text.count(words) for words in ("be short", "first", "a cat", "second")] == [1, 1, 1, 1]
    assert "type" not in text
    assert prepared.media_items == 3
    assert len(prepared.media["image_grid_thw"]) == 3


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        (None, "has no chat template .* use a model that was tuned for chats"),
        (CHATML, "has no place for images"),
        ("{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}", "has no place for images"),
        ("{{ raise_exception('no') }}", "has no place for images"),
        (f"{MARK}{{% for m in messages %}}{{{{ m['content'][0]['text'] }}}}{{% endfor %}}", "has no place for images"),
    ],
    ids=["none", "prints parts", "text only", "refuses", "one image always"],
)
def test_a_model_whose_prompts_nobody_knows_is_not_served(with_template, template, sentence):
    with pytest.raises(LoadFailed, match=sentence):
        chat_format(with_template(template))


def test_a_tokenizer_is_no_processor(processor):
    with pytest.raises(LoadFailed, match="has no image processor"):
        chat_format(processor.tokenizer)


IN_SYSTEM = [{"role": "system", "content": user(image(0, 60, 60), "x")[0]["content"]}, *user("x")]


@pytest.mark.parametrize(
    ("messages", "kind", "sentence"),
    [
        (user(audio(0, 1), "what"), "unsupported-modality", "This model takes text and image, not audio."),
        (user(video(0, 2), "what"), "unsupported-modality", "This model takes text and image, not video."),
        (IN_SYSTEM, "invalid-prompt", "messages: the model's chat template refuses them"),
        (user(Image(np.zeros((1, 900, 3), np.uint8)), "x"), "invalid-prompt", "messages: the model's processor"),
        (user("what " * 200_000), "context-length-exceeded", "This model's maximum context length"),
    ],
)
def test_what_is_refused(with_template, messages, kind, sentence):
    with pytest.raises(EngineRefusal) as refused:
        prompts_of(with_template(GEMMA)).chat(messages)
    assert refused.value.kind == kind
    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("mark", [MARK, "<|video_pad|>"])
def test_what_stands_for_media_is_text_in_a_text(with_template, mark):
    prompts = prompts_of(with_template(GEMMA))
    token = prompts.control.ids[mark]
    for media in ([image(0, 60, 60)], []):
        spelled, plain = (prompts.chat(user(*media, text)) for text in (f"and {mark}", "and"))
        assert list(spelled.ids).count(token) == list(plain.ids).count(token)
        assert spelled.media.keys() == plain.media.keys()


def test_an_image_that_the_template_drops_is_refused(with_template):
    """SmolVLM's would keep it; this one shows images of the user only."""
    template = SMOLVLM.replace("line['type'] == 'image'", "line['type'] == 'image' and message['role'] == 'user'")
    with pytest.raises(EngineRefusal, match="has no place for images in one of these messages"):
        prompts_of(with_template(template)).chat(IN_SYSTEM)


def test_raw_prompts_have_no_images(processor):
    prompts = prompts_of(processor)
    assert list(prompts.text("hello").ids) == prompts._fast.encode("hello").ids
    with pytest.raises(EngineRefusal, match=r"prompt: .* stands for media"):
        prompts.text(f"hello {MARK}")
    token = processor.tokenizer.convert_tokens_to_ids(MARK)
    with pytest.raises(EngineRefusal, match=rf"prompt\[1\]: token id {token} \(<.image_pad.>\) stands for"):
        prompts.ids([1, token])
    assert list(prompts.ids([1, 2]).ids) == [1, 2]


def test_the_same_without_images(processor):
    prompts = prompts_of(processor)
    prepared = prompts.chat(user(image(1, 56, 56), "hello"))
    assert prepared.text_only is not None
    assert list(prepared.text_only().ids) == list(prompts.chat(user("hello")).ids)
    for nothing in (user(image(1, 56, 56)), user(image(1, 56, 56), " "), user("hello")):
        assert prompts.chat(nothing).text_only is None


def test_threads_prepare_prompts_at_the_same_time(processor):
    prompts = prompts_of(processor)
    requests = [user(image(seed, 60 + 40 * (seed % 3), 90), "what " * (1 + seed % 5)) for seed in range(24)]
    expected = [prompts.chat(messages) for messages in requests]
    found: dict[int, Any] = {}
    threads = [
        threading.Thread(
            target=lambda first: found.update({n: prompts.chat(requests[n]) for n in range(first, 24, 4)}),
            args=(first,),
        )
        for first in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, prepared in enumerate(expected):
        assert list(found[number].ids) == list(prepared.ids)
        assert torch.equal(found[number].media["pixel_values"], prepared.media["pixel_values"])
