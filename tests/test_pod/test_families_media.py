"""Media in the batch: answers are those of transformers' generate, alone and among others, on both forwards."""

import dataclasses
import functools

import pytest
import torch
from ams_common.families import modalities_of
from ams_pod.engines.builtin.model import verify
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.model.stack import find_stack
from ams_pod.engines.builtin.scheduler import core, schedule
from ams_pod.engines.builtin.towers import vision
from engine_harness import Driver, forward_of
from fakehub import checkpoints
from families_harness import Family, audio, image, video

# transformers' omni processor gives torch's tensors to numpy in a way that numpy 2 frowns on
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.family("vision-language", "qwen3-vl", "audio-language", "omni"),
]

ROWS, LENGTH = 3, 2400

WHAT, WHERE = "what is said in this picture", "where is the dog, and why is it blue"

# Contents of one request each.
CASES = {
    "vision-language": [
        [image(0, 90, 120), WHAT],
        [WHERE],
        [image(1, 200, 60), image(2, 64, 64), WHERE],
        [video(3, 5), WHAT],
        [image(4, 130, 130), WHAT, video(5, 8), image(6, 1, 3), "and then"],
        ["no"],
    ],
    "qwen3-vl": [
        [image(0, 90, 120), WHAT],
        [WHERE],
        [image(1, 200, 64), image(2, 64, 64), WHERE],
        [video(3, 5), WHAT],
        [WHAT, ":", video(5, 8), image(4, 130, 130), image(6, 2, 3), "and then", video(7, 3)],
        ["no"],
    ],
    "audio-language": [
        [audio(0, 2.3), WHAT],
        [WHERE],
        [audio(1, 0.7), audio(2, 4.1), "and"],
        [WHAT, audio(3, 30.0)],
        ["no"],
    ],
    "omni": [
        [image(0, 90, 120), audio(0, 1.7), WHAT],
        [WHERE],
        [video(1, 6), WHAT],
        [audio(2, 0.8), audio(3, 6.03), WHERE],
        [video(4, 8, sound=7.1), WHAT],
        [image(5, 60, 80), video(6, 4, sound=3.0), audio(7, 2.0), "and", video(8, 3, sound=2.0)],
        [audio(9, 1.0), image(10, 56, 90), video(11, 2), WHAT, image(12, 70, 70)],
        ["no"],
    ],
}
NEW = [12, 20, 9, 24, 16, 11, 18, 14]


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    @functools.cache
    def family(name):
        folder = tmp_path_factory.mktemp("families") / name
        return Family(name, checkpoints.make(checkpoints.OF_FAMILY[name], folder, dtype="float32"))

    return family


@pytest.fixture(scope="session")
def expected(families):
    """Of each family: transformers' inputs and tokens for each case."""

    @functools.cache
    def answers(name):
        family = families(name)
        inputs = [family.inputs(*case) for case in CASES[name]]
        return inputs, [family.generate(each, new) for each, new in zip(inputs, NEW, strict=False)]

    return answers


@pytest.fixture(params=CASES)
def name(request):
    return request.param


def driver_of(family, kind):
    """As when it is served: the towers and the forward are of one model."""
    model = family.load_model()
    return Driver(forward_of(kind, model, ROWS, LENGTH), embedder=family.recipe.embedder(model))


def test_prompts_are_those_of_the_processor(families, expected, name):
    family = families(name)
    for case, inputs in zip(CASES[name], expected(name)[0], strict=True):
        assert list(family.prepare(*case).ids) == inputs["input_ids"][0].tolist()


def test_answers_depend_on_the_media(expected, name):
    answers = expected(name)[1]
    assert len({tuple(tokens[:4]) for tokens in answers}) == len(answers)
    assert all(len(set(tokens)) > 3 for tokens in answers)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_alone_equals_generate(families, expected, name, kind):
    family = families(name)
    driver = driver_of(family, kind)
    for case, tokens in zip(CASES[name], expected(name)[1], strict=True):
        outcome = driver.submit_prepared(family.prepare(*case), len(tokens))[1]
        driver.run()
        assert outcome.error is None
        assert outcome.tokens == tokens


@pytest.mark.parametrize("kind", ["flat", "padded"])
@pytest.mark.parametrize("gap", [0.0, 60.0], ids=["interrupted", "whole"])
def test_a_changing_mixed_batch_equals_generate(families, expected, name, kind, gap, monkeypatch):
    """More requests than rows, prompts read in small chunks, towers in small calls; two requests are cancelled.

    With steps between any two layers of the towers, and with none.
    """
    monkeypatch.setattr(core, "GAP_SECONDS", gap)
    monkeypatch.setattr(schedule, "_LARGEST_CHUNK", 24)
    monkeypatch.setattr(schedule, "ALONE_TOKENS", 40)
    monkeypatch.setattr(vision, "PATCHES_PER_CALL", 100)
    family = families(name)
    driver = driver_of(family, kind)
    cases = CASES[name]
    cancelled = [(driver.submit_prepared(family.prepare(*cases[index]), 40), step) for index, step in ((0, 3), (2, 20))]
    outcomes = []
    for case, tokens in zip(cases, expected(name)[1], strict=True):
        outcomes.append(driver.submit_prepared(family.prepare(*case), len(tokens))[1])
        driver.engine.step()
    while driver.engine.step():
        for (ticket, outcome), made in cancelled:
            if len(outcome.tokens) >= made:
                driver.engine.cancel(ticket)
    assert [outcome.tokens for outcome in outcomes] == expected(name)[1]
    assert {outcome.finish for (_, outcome), _ in cancelled} == {"cancelled"}


def test_the_decoder_serves_the_language_model_after_its_check(families, name):
    """What `load` does: the check of our decoder against the model's own forward passes for every family."""
    from ams_common.pod_settings import ServeSettings
    from ams_pod.engines.builtin.loading import load_engine

    settings = ServeSettings(
        name="tiny", source="file:///x", precision="float32", context_tokens=512, concurrent_requests=2, threads=1
    )
    engine = load_engine(families(name).folder, settings, lambda events: None, lambda phase, percent: None)
    assert engine.info.engine == "flat"
    assert engine.info.family == name
    assert engine.capabilities.modalities == modalities_of(name)


@pytest.mark.parametrize("name", ["vision-language", "qwen3-vl", "omni"])
def test_the_check_sees_a_decoder_that_mixes_up_time_height_and_width(families, name):
    model = families(name).load_model()
    probes = verify.text_probes(model)
    decoder = forward_of("flat", model, ROWS, LENGTH)
    assert verify.close_enough(verify.distance(decoder, probes), torch.float32)
    mixed_up = [dataclasses.replace(probe, positions=probe.positions[[0, 2, 1]]) for probe in probes]
    assert not verify.close_enough(verify.distance(decoder, mixed_up), torch.float32)


def test_a_long_clip_reaches_the_model_whole(families):
    """Qwen2-Audio hears 30 seconds at a time: a longer clip is several, one behind the other."""
    family = families("audio-language")
    clip = audio(0, 64.3)
    prepared = family.prepare(clip, WHAT)
    limit = 30 * clip.rate
    clips = [type(clip)(clip.samples[start : start + limit], clip.rate) for start in (0, limit, 2 * limit)]
    text = family.prompts.render([{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": WHAT}]}])
    mark = "<|AUDIO|>"
    inputs = family.process(text.replace(mark, "<|audio_eos|><|audio_bos|>".join([mark] * 3)), clips)
    assert list(prepared.ids) == inputs["input_ids"][0].tolist()
    driver = driver_of(family, "flat")
    outcome = driver.submit_prepared(prepared, 12)[1]
    driver.run()
    assert outcome.tokens == family.generate(inputs, 12)


def test_long_audio_is_encoded_in_pieces(families):
    """The omni encoder hears windows of two seconds apart, so a long clip is divided without a difference."""
    family = families("omni")
    clip = audio(0, 70.01)
    prepared = family.prepare(clip, WHAT)
    pieces = family.recipe.embedder(family.model).pieces(prepared)
    assert len(pieces) == 3
    assert all(piece.share <= 0.6 for piece in pieces)
    text = family.prompts.render([{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": WHAT}]}])
    inputs = family.processor(
        text=[text], audio=[clip.samples], audio_kwargs={"sampling_rate": clip.rate}, return_tensors="pt"
    )
    assert list(prepared.ids) == inputs["input_ids"][0].tolist()
    driver = driver_of(family, "flat")
    outcome = driver.submit_prepared(prepared, 12)[1]
    driver.run()
    assert outcome.tokens == family.generate(inputs, 12)


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_positions_of_a_long_video_may_lie_beyond_the_context(families, kind):
    family = families("vision-language")
    frames = video(0, 6)
    frames = dataclasses.replace(frames, timestamps=tuple(900.0 * index for index in range(6)), seconds=5400.0)
    inputs = family.inputs(frames, WHAT)
    driver = driver_of(family, kind)
    outcome = driver.submit_prepared(family.prepare(frames, WHAT), 16)[1]
    driver.run()
    assert outcome.tokens == family.generate(inputs, 16)


def test_videos_with_and_without_sound_in_one_prompt(families):
    """transformers knows one or the other in a prompt; each must lie as it does alone."""
    family = families("omni")
    loud, silent = video(0, 6, sound=5.0), video(1, 4)
    positions = {}
    for key, content in {"both": [loud, "and", silent, "x"], "loud": [loud, "and"], "silent": [silent, "x"]}.items():
        prepared = family.prepare(*content)
        embedder = family.recipe.embedder(family.model)
        features = [result for piece in embedder.pieces(prepared) for result in embedder.encode([piece])]
        positions[key] = embedder.merge(prepared, features).positions, prepared.media.starts, len(prepared.ids)
    both, (first, second), _ = positions["both"]
    start = positions["silent"][1][0]
    assert first == start
    tail = positions["silent"][0][:, start - 1 :]
    assert torch.equal(both[:, : second - 1], positions["loud"][0][:, : second - 1])
    assert torch.equal(both[:, second - 1 :] - both[:, second - 1 : second], tail - tail[:, :1])
    assert int(both[0, second - 1]) == int(both[0, second - 2]) + 1


def test_a_thinker_alone_answers_as_within_the_whole_model(families, expected, tmp_path):
    family = families("omni")
    family.model.save_pretrained(tmp_path)
    family.processor.save_pretrained(tmp_path)
    alone = Family("omni", tmp_path)
    driver = driver_of(alone, "flat")
    outcome = driver.submit_prepared(alone.prepare(*CASES["omni"][4]), NEW[4])[1]
    driver.run()
    assert outcome.tokens == expected("omni")[1][4]


def test_weights_that_lack_a_tensor_are_refused(families, tmp_path):
    """transformers fills what is missing at random, without a word."""
    from ams_pod.engines.builtin.memory.placing import Placement
    from ams_pod.engines.builtin.model.weights import load_weights
    from ams_pod.engines.port import LoadFailed
    from safetensors.torch import load_file, save_file

    family = families("vision-language")
    for path in family.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    tensors.pop(next(name for name in tensors if name.endswith("merger.mlp.0.weight")))
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(LoadFailed, match=r"lack 1 tensors of Qwen2_5_VL.*merger\.mlp\.0\.weight"):
        load_weights(family.recipe.model_class, tmp_path, Placement("cpu", torch.float32), lambda phase, percent: None)


def keeping(family, prefixes=4096):
    """A driver whose forward keeps prompts, and what its towers encode: a number for each call."""
    model = family.load_model()
    embedder = family.recipe.embedder(model)
    calls, encode = [], embedder.encode

    def counted(pieces, *rest):
        calls.append(len(pieces))
        return encode(pieces, *rest)

    embedder.encode = counted
    decoder = Decoder(find_stack(model), ROWS, LENGTH, prefix_tokens=prefixes)
    return Driver(decoder, embedder=embedder), calls


def test_media_that_were_read_before_pass_the_towers_by(families, expected, name):
    """The same question again, and another one about the same media: nothing is encoded, and the answers are right."""
    family = families(name)
    driver, calls = keeping(family)
    for case, tokens in zip(CASES[name], expected(name)[1], strict=True):
        first, outcome = driver.submit_prepared(family.prepare(*case), len(tokens))
        driver.run()
        assert outcome.tokens == tokens
        encoded = len(calls)
        again, outcome = driver.submit_prepared(family.prepare(*case), len(tokens))
        driver.run()
        assert outcome.tokens == tokens
        assert again.cached_tokens >= first.cached_tokens
        media = family.prepare(*case).media
        if media is not None and max(media.ends) <= (len(first.prepared.ids) - 1) // 16 * 16:
            assert len(calls) == encoded
            assert again.cached_tokens >= max(media.ends)


def test_other_media_of_the_same_size_are_not_taken_for_them(families, name):
    """All tokens are alike, and only the pixels and samples differ."""
    family = families(name)
    make = (lambda seed: audio(seed, 2.0)) if name == "audio-language" else (lambda seed: image(seed, 112, 112))
    question = " ".join([WHERE] * 3)
    driver, calls = keeping(family)
    for seed in (20, 21, 20, 21):
        case = [make(seed), question]
        wanted = family.generate(family.inputs(*case), 8)
        _, outcome = driver.submit_prepared(family.prepare(*case), 8)
        driver.run()
        assert outcome.tokens == wanted
    assert len(calls) == 2
    one, other = family.prepare(make(20), question), family.prepare(make(21), question)
    assert list(one.ids) == list(other.ids)
    assert list(one.content) != list(other.content)


def test_media_that_are_dropped_while_a_prompt_waits_are_encoded_after_all(families, name):
    family = families(name)
    make = audio(30, 2.0) if name == "audio-language" else image(30, 112, 112)
    case = [make, " ".join([WHERE] * 3)]
    wanted = family.generate(family.inputs(*case), 8)
    driver, calls = keeping(family)
    driver.submit_prepared(family.prepare(*case), 8)
    driver.run()
    assert len(calls) == 1
    _, outcome = driver.submit_prepared(family.prepare(*case), 8)
    driver.engine._take_inbox()
    assert len(driver.engine._waiting) == 1
    driver.engine._prefixes.drop()
    driver.run()
    assert outcome.tokens == wanted
    assert len(calls) == 2
