"""The check at load compares prompts with media: what would be served wrong is served otherwise, or not at all."""

import dataclasses
from pathlib import Path

import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin.loading import load_engine
from ams_pod.engines.builtin.model import verify
from ams_pod.engines.builtin.model.decoder import Decoder
from ams_pod.engines.builtin.towers.embedder import MediaEmbedder
from ams_pod.engines.builtin.towers.queue import Features
from ams_pod.engines.builtin.towers.vision import VisionTower
from ams_pod.engines.port import LoadFailed
from engine_harness import Driver, forward_of
from fakehub import checkpoints
from families_harness import Family, image

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MEDIA = ["vision-language", "qwen3-vl", "audio-language", "omni"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made: dict[str, Path] = {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = checkpoints.make(checkpoints.OF_FAMILY[name], tmp_path_factory.mktemp("check") / name)
        return made[name]

    return of


def load(folder, precision="float32", **fields):
    settings = ServeSettings(
        name="tiny", source="file:///x", precision=precision, threads=1,
        **{"context_tokens": 512, "concurrent_requests": 2, **fields},
    )  # fmt: skip
    return load_engine(folder, settings, lambda events: None, lambda phase, percent: None)


def without_deep(step):
    """A forward's step that drops what is added behind the first layers."""

    def drop(self, batch):
        chunks = [dataclasses.replace(chunk, deep=None) for chunk in batch.chunks]
        return step(self, dataclasses.replace(batch, chunks=chunks))

    return drop


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MEDIA)
def test_our_decoder_passes(folder, name, precision):
    assert load(folder(name), precision).info.engine == "flat"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_decoder_that_drops_deep_features_does_not_serve(folder, precision, monkeypatch, caplog):
    monkeypatch.setattr(Decoder, "step", without_deep(Decoder.step))
    engine = load(folder("qwen3-vl"), precision)
    assert engine.info.engine == "transformers"
    assert "our decoder differs from the model's own forward" in caplog.text


@pytest.mark.parametrize("name", MEDIA)
def test_a_decoder_that_misplaces_media_does_not_serve(folder, name, monkeypatch):
    step = Decoder.step

    def shift(self, batch):
        chunks = [
            chunk if chunk.embeds is None else dataclasses.replace(chunk, embeds=chunk.embeds.roll(1, 0))
            for chunk in batch.chunks
        ]
        return step(self, dataclasses.replace(batch, chunks=chunks))

    monkeypatch.setattr(Decoder, "step", shift)
    assert load(folder(name)).info.engine == "transformers"


def test_a_model_whose_deep_features_nobody_takes_is_not_served(folder, monkeypatch):
    """As if its architecture were a row of a family that knows none."""
    encode = VisionTower.__call__
    monkeypatch.setattr(VisionTower, "__call__", lambda *given: [Features(each.embeds) for each in encode(*given)])
    with pytest.raises(LoadFailed, match="Qwen3VLForConditionalGeneration answers prompts with media differently"):
        load(folder("qwen3-vl"))


def test_a_family_that_encodes_wrongly_is_not_served(folder, monkeypatch):
    merge = MediaEmbedder.merge

    def swap(self, prepared, features):
        return merge(self, prepared, [Features(each.embeds.flip(0), each.deep) for each in features])

    monkeypatch.setattr(MediaEmbedder, "merge", swap)
    with pytest.raises(LoadFailed, match="so it is not served"):
        load(folder("vision-language"))


@pytest.mark.parametrize("kind", ["flat", "padded"])
def test_answers_depend_on_deep_features(folder, kind, monkeypatch):
    family = Family("qwen3-vl", folder("qwen3-vl"))
    prepared = family.prepare(image(0, 90, 120), "what is this")

    def answer():
        model = family.load_model()
        driver = Driver(forward_of(kind, model, 2, 512), embedder=family.recipe.embedder(model))
        outcome = driver.submit_prepared(prepared, 8)[1]
        driver.run()
        return outcome.tokens

    with_them = answer()
    encode = VisionTower.__call__
    monkeypatch.setattr(VisionTower, "__call__", lambda *given: [Features(each.embeds) for each in encode(*given)])
    assert answer() != with_them


def test_a_context_too_short_for_media_is_checked_on_text(folder):
    assert load(folder("qwen3-vl"), context_tokens=32).info.engine == "flat"


def test_one_row_suffices_for_the_check(folder):
    assert load(folder("qwen3-vl"), concurrent_requests=1).info.engine == "flat"


def test_the_check_leaves_the_encoder_as_it_was(folder):
    engine = load(folder("audio-language"))
    tower = engine.core._towers._embedder._towers["audio"]
    assert len(tower._model.audio_tower.layers) == 2
    assert isinstance(tower._model.audio_tower.layers, torch.nn.ModuleList)


def test_a_model_that_amplifies_rounding_keeps_our_decoder(folder, monkeypatch, caplog):
    """Its own forward, read in chunks, is no closer: then the distance is no fault of the decoder."""
    distance = verify.distance
    monkeypatch.setattr(verify, "distance", lambda forward, probes: distance(forward, probes) + 0.2)
    assert load(folder("qwen3-vl"), "bfloat16").info.engine == "flat"
    assert "as the model's own forward in chunks does by 0.2" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "value", "close", "other"),
    [
        (torch.float32, 1e-3, True, False),
        (torch.float32, 1e-2, False, False),
        (torch.float32, 3e-2, False, True),
        (torch.bfloat16, 5e-2, True, False),
        (torch.bfloat16, 0.3, False, False),
        (torch.bfloat16, 0.6, False, True),
    ],
)
def test_what_rounding_explains_depends_on_the_format(dtype, value, close, other):
    assert (verify.close_enough(value, dtype), verify.clearly_other(value, dtype)) == (close, other)
