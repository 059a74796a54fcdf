"""What families with media refuse before anything is computed, and what text-only families make of parts."""

import numpy as np
import pytest
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.port import ChatOptions, EngineRefusal
from ams_pod.media.items import Image, Video
from fakehub import checkpoints
from families_harness import audio, image, user, video

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = {"text": "qwen3", "vision-language": "qwen2_5_vl", "audio-language": "qwen2_audio", "omni": "qwen2_5_omni"}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for kind in KINDS.values():
        checkpoints.make(kind, folder / kind)
    return lambda name, context=2400: family_module(name).recipe(folder / KINDS[name]).prompts(context)


@pytest.mark.parametrize(
    ("name", "item", "sentence"),
    [
        ("text", image(0, 60, 60), "This model takes text, not image."),
        ("vision-language", audio(0, 1), "This model takes text, image and video, not audio."),
        ("audio-language", image(0, 60, 60), "This model takes text and audio, not image."),
        ("audio-language", video(0, 2), "This model takes text and audio, not video."),
    ],
)
def test_what_a_model_does_not_take(prompts, name, item, sentence):
    with pytest.raises(EngineRefusal) as refused:
        prompts(name).chat(user(item, "what"))
    assert refused.value.kind == "unsupported-modality"
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("vision-language", [image(0, 224, 224), image(1, 224, 224)]),
        ("vision-language", [video(0, 40)]),
        ("audio-language", [audio(0, 12)]),
        ("omni", [video(0, 2, sound=9)]),
        ("omni", [image(0, 224, 224), audio(0, 9)]),
    ],
)
def test_media_that_exceed_the_context(prompts, name, items):
    whole = prompts(name).chat(user(*items, "what is this"))
    prompts(name, len(whole.ids)).chat(user(*items, "what is this"))
    with pytest.raises(
        EngineRefusal,
        match=f"context length is {len(whole.ids) - 1} tokens. .* with {len(whole.ids)} tokens, .* for its media,",
    ) as no:
        prompts(name, len(whole.ids) - 1).chat(user(*items, "what is this"))
    assert no.value.kind == "context-length-exceeded"
    assert no.value.given == len(whole.ids)


@pytest.mark.parametrize(
    ("name", "item", "mark"),
    [
        ("vision-language", image(0, 60, 60), "<|image_pad|>"),
        ("audio-language", audio(0, 1), "<|AUDIO|>"),
        ("omni", audio(0, 1), "<|VIDEO|>"),
    ],
)
def test_a_placeholder_in_a_text_is_text(prompts, name, item, mark):
    family = prompts(name)
    token = family.control.ids[mark]
    for media in ([item], []):
        spelled = family.chat(user(*media, f"what {mark} is"))
        plain = family.chat(user(*media, "what is"))
        assert list(spelled.ids).count(token) == list(plain.ids).count(token)
        assert mark in family._fast.decode(list(spelled.ids)).replace(" ", "").replace("what", "")


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (3, 3), (4, 2), (2, 200)])
def test_tiny_pictures_are_understood(prompts, size):
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    for name in ("vision-language", "omni"):
        prepared = prompts(name).chat(user(Image(pixels), "what"))
        assert prepared.media.pieces[0].inputs.normalized().isfinite().all()
        frames = np.stack([pixels] * 3)
        prepared = prompts(name).chat(user(Video(frames, (0.0, 1.0, 2.0), 3.0), "what"))
        assert prepared.media.layouts[0].grid[0] == 2


@pytest.mark.parametrize("name", ["vision-language", "omni"])
@pytest.mark.parametrize(("times", "seconds"), [((0.0,), 0.0), ((0.5,), 4.0), ((1.0, 1.0), 1.0), ((0.0, 0.04), 0.08)])
def test_videos_of_few_frames_have_finite_positions(prompts, name, times, seconds):
    frames = np.zeros((len(times), 60, 60, 3), np.uint8)
    prepared = prompts(name).chat(user(Video(frames, times, seconds), "what"))
    assert 0 < prepared.media.layouts[0].seconds < 100


@pytest.mark.parametrize("name", ["audio-language", "omni"])
@pytest.mark.parametrize("samples", [0, 1, 160, 479, 480, 481, 32_000, 32_001, 32_479, 480_000, 480_001])
def test_clips_of_any_length_have_tokens(prompts, name, samples):
    clip = audio(0, samples / 16_000)
    prepared = prompts(name).chat(user(clip, "what"))
    assert prepared.media_items == 1
    tokens = len(prepared.ids) - len(prompts(name).chat(user("what")).ids)
    assert tokens >= 1 + samples // 640 - 1


def test_several_turns_keep_their_media_in_order(prompts):
    messages = [
        {"role": "system", "content": "be short"},
        *user(image(0, 60, 60), "first"),
        {"role": "assistant", "content": "a cat"},
        *user(image(1, 120, 60), "second"),
    ]
    prepared = prompts("vision-language").chat(messages)
    assert [layout.grid for layout in prepared.media.layouts] == [(1, 4, 4), (1, 4, 8)]
    assert prepared.media_items == 2


def test_text_parts_of_a_text_model_are_lines(prompts):
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    text = prompts("text")
    assert text.chat([{"role": "user", "content": parts}]) == text.chat([{"role": "user", "content": "one\ntwo"}])


TOOLS = (
    "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}{% for each in messages %}{% if each.tool_calls %}"
    "<tool_call>{{ each.tool_calls[0].function.arguments | tojson }}{% endif %}{% endfor %}"
)
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"at": "<|im_end|>"}}}


@pytest.mark.parametrize(
    ("family", "kind", "item"),
    [
        ("vision-language", "qwen2_5_vl", image(0, 60, 60)),
        ("audio-language", "qwen2_audio", audio(0, 1)),
        ("omni", "qwen2_5_omni", image(0, 60, 60)),
        ("image-text-to-text", "idefics3", image(0, 60, 60)),
    ],
)
def test_families_with_media_take_tools(tmp_path, family, kind, item):
    checkpoints.make(kind, tmp_path / kind)
    template = tmp_path / kind / "chat_template.jinja"
    template.write_text(TOOLS + template.read_text())
    prompts = family_module(family).recipe(tmp_path / kind).prompts(2400)
    assert prompts.habits.tools
    chat = [
        *user(item, "what"),
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "a cat <|im_end|>", "tool_call_id": "abcdefghi", "name": "look"},
    ]
    plain = [{**chat[0]}, {**chat[1], "tool_calls": [{**CALL, "function": {"name": "look", "arguments": {"at": "x"}}}]}]
    plain.append({**chat[2], "content": "a cat x"})
    options = ChatOptions(tools=(TOOL,))
    spelled, harmless = prompts.chat(chat, options), prompts.chat(plain, options)
    assert spelled.media_items == 1
    text = prompts.text_of(spelled.ids)
    assert '<tools>[{"type": "function", "function": {"name": "look"' in text
    assert '<tool_call>{"at": "<|im_end|>"}' in text
    assert "a cat <|im_end|>" in text
    control = set(prompts.control.ids.values())
    assert sum(each in control for each in spelled.ids) == sum(each in control for each in harmless.ids)
