"""Clips of every length reach the models that hear: from one sample to half an hour, out of every kind of container."""

import io

import numpy as np
import pytest
import torch
from ams_pod.engines.builtin.towers import sound
from ams_pod.media.audio import decode_audio
from ams_pod.media.items import Audio
from ams_pod.media.limits import MediaLimits
from ams_pod.media.watch import Watch
from engine_harness import Driver, forward_of
from fakehub import checkpoints
from families_harness import RATE, Family, audio
from hypothesis import given, settings
from hypothesis import strategies as st
from test_media import media_files

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

LONGEST = 30 * RATE
HALF_AN_HOUR = 30 * 60 * RATE


@pytest.fixture(scope="module", params=["audio-language", "omni"])
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lengths") / request.param
    return Family(request.param, checkpoints.make(checkpoints.OF_FAMILY[request.param], folder, dtype="float32"))


def features_of(family, *content):
    prepared = family.prepare(*content)
    embedder = family.recipe.embedder(family.model)
    features = [result for piece in embedder.pieces(prepared) for result in embedder.encode([piece])]
    return prepared, embedder.merge(prepared, features)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.integers(1, 3 * RATE), st.integers(1, HALF_AN_HOUR), st.integers(-900, 900)))
def test_clips_add_up_to_the_recording_and_none_is_a_scrap(length):
    length = length if length > 0 else 2 * LONGEST + length  # around a whole number of clips
    samples = np.arange(length)
    clips = sound.divide(samples, LONGEST, RATE)
    assert sum(map(len, clips)) == length
    assert all(clip[0] == start for clip, start in zip(clips, np.cumsum([0, *map(len, clips)]), strict=False))
    assert all(len(clip) <= LONGEST for clip in clips)
    assert len(clips) == 1 or min(map(len, clips)) >= RATE


LENGTHS = [1, 16, 160, 161, 480, 640, 960, 1119, 1120, RATE, LONGEST - 1, LONGEST, LONGEST + 1]
LENGTHS += [2 * LONGEST + extra for extra in (-1, 0, 160, 320, 640, 960, RATE, 9 * RATE)]


@pytest.mark.parametrize("length", LENGTHS)
def test_a_clip_of_any_length_is_heard(family, length):
    clip = Audio(audio(0, 1 + length / RATE).samples[:length], RATE)
    prepared, prompt = features_of(family, clip, "what")
    assert len(prepared.ids) == family.prompts.expander.count(clip) + len(family.prepare("what").ids) + _marks(family)
    assert torch.isfinite(prompt.embeds).all()
    heard = prompt.embeds[prepared.media.starts[0] : prepared.media.ends[0]]
    loud = prompt_of_louder(family, clip)
    assert not torch.allclose(heard, loud), "the model was given something else than the sound"


def prompt_of_louder(family, clip):
    noise = np.random.default_rng(1).standard_normal(len(clip.samples)).astype(np.float32)
    prepared, prompt = features_of(family, Audio(noise, clip.rate), "what")
    return prompt.embeds[prepared.media.starts[0] : prepared.media.ends[0]]


def _marks(family):
    """Tokens that the chat template puts around a clip."""
    one = Audio(np.zeros(RATE, np.float32), RATE)
    return len(family.prepare(one, "what").ids) - family.prompts.expander.count(one) - len(family.prepare("what").ids)


def test_half_an_hour_is_heard(family):
    clip = Audio(np.tile(audio(0, 10).samples, 180), RATE)
    assert len(clip.samples) == HALF_AN_HOUR
    pieces = family.prompts.expander.expand(clip).pieces
    assert sum(piece.share for piece in pieces) == pytest.approx(30, rel=0.02)


@pytest.mark.parametrize("length", [1, 960, 1120])
def test_a_clip_that_is_one_token_is_answered_alone_and_beside_another(family, length):
    short = Audio(audio(0, 1).samples[:length], RATE)
    for content in ([short, "what"], [short, audio(1, 3.0), "what"], [short, short, "what"]):
        driver = Driver(forward_of("flat", family.load_model(), 2, 2400), embedder=family.recipe.embedder(family.model))
        outcome = driver.submit_prepared(family.prepare(*content), 3)[1]
        driver.run()
        assert (outcome.finish, outcome.error) == ("length", None)


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp4", "aac"), ("adts", "aac"), ("mp3", "mp3"), ("ogg", "libopus"), ("webm", "libopus"), ("flac", "flac")],
)
@pytest.mark.parametrize("seconds", [0.02, 30.0, 60.0])
def test_recordings_of_whole_minutes_out_of_every_container(family, container, codec, seconds):
    """Encoders add some milliseconds at the end."""
    data = media_files.sound(container, codec, seconds, 48_000)
    watch = Watch(60.0)
    watch.item("audio")
    clip = decode_audio(io.BytesIO(data), "audio", RATE, MediaLimits(), watch)
    _, prompt = features_of(family, clip, "what")
    assert torch.isfinite(prompt.embeds).all()
