"""Frames within the bound of a tower's call, and what users write into texts beside their media."""

import json

import numpy as np
import pytest
import torch
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.builtin.towers import vision
from ams_pod.media.items import Image, Video
from engine_harness import Driver, forward_of
from fakehub import checkpoints
from families_harness import Family, audio, image, video

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bounds") / "omni"
    return Family("omni", checkpoints.make("qwen2_5_omni", folder, dtype="float32"))


@pytest.mark.parametrize(
    ("media", "text"),
    [
        ([image(0, 60, 60)], "<|audio_bos|> <|audio_eos|>"),
        ([image(0, 60, 60)], "<|vision_bos|>"),
        ([audio(0, 1.0)], "<|vision_bos|> and <|audio_bos|>"),
        ([video(0, 4, sound=2.0)], "<|vision_bos|><|audio_bos|> x"),
        ([image(0, 60, 60), audio(0, 1.0)], "<|vision_eos|><|audio_bos|><|vision_bos|>"),
    ],
)
def test_marks_of_media_in_a_text_are_text(omni, media, text):
    prepared = omni.prepare("<|audio_bos|>", *media, text)
    embedder = omni.recipe.embedder(omni.model)
    features = [result for piece in embedder.pieces(prepared) for result in embedder.encode([piece])]
    behind = embedder.merge(prepared, features).positions[:, prepared.media.ends[-1] :]
    assert torch.equal(behind - behind[:, :1], torch.arange(behind.shape[1]).expand(3, -1))
    driver = Driver(forward_of("flat", omni.load_model(), 2, 2400), embedder=embedder)
    outcome = driver.submit_prepared(prepared, 3)[1]
    driver.run()
    assert (outcome.finish, outcome.error) == ("length", None)


@pytest.mark.parametrize(("name", "kind"), [("vision-language", "qwen2_5_vl"), ("omni", "qwen2_5_omni")])
@pytest.mark.parametrize("shape", [(720, 1280), (1080, 1920), (3000, 16)])
def test_frames_stay_within_the_bound_of_a_call(tmp_path, name, kind, shape):
    """With the pixels that the hub's checkpoints allow: for an image as for a frame."""
    checkpoints.make(kind, tmp_path)
    _allow(tmp_path)
    item = Video(np.zeros((3, *shape, 3), np.uint8), (0.0, 1.0, 2.0), 3.0)
    prepared = family_module(name).recipe(tmp_path).prompts(32768).chat(
        [{"role": "user", "content": [{"type": "video", "video": item}, {"type": "text", "text": "what"}]}]
    )  # fmt: skip
    assert all(piece.share <= 1 for piece in prepared.media.pieces)
    _, height, width = prepared.media.layouts[0].grid
    assert height * width <= vision.PATCHES_PER_CALL
    assert prepared.media.ends[0] - prepared.media.starts[0] == 2 * height * width // 4


@pytest.mark.parametrize(("name", "kind"), [("vision-language", "qwen2_5_vl"), ("omni", "qwen2_5_omni")])
@pytest.mark.parametrize(
    ("given", "tokens"),
    [((2339, 1654), 4956), ((3508, 2480), 11125), ((2160, 3840), 10549), ((3024, 4032), 15552), ((4000, 6000), 16224)],
)
def test_a_photo_keeps_what_the_checkpoint_allows(tmp_path, name, kind, given, tokens):
    """A4 in 200 and 300 dpi, a 4K screenshot, photos: as many tokens as with the authors' own utilities."""
    checkpoints.make(kind, tmp_path)
    _allow(tmp_path)
    prompts = family_module(name).recipe(tmp_path).prompts(32768)
    assert prompts.expander.count(Image(np.zeros((*given, 3), np.uint8))) == tokens


def _allow(folder):
    """The pixels that the hub's checkpoints allow: for an image as for a frame."""
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    for part in ("image_processor", "video_processor"):
        config[part]["size"] = {"shortest_edge": 3136, "longest_edge": 12845056}
    path.write_text(json.dumps(config))
