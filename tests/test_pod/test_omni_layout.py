"""How pictures and sound of a video take turns in an omni prompt."""

import itertools

import numpy as np
import pytest
import torch
from ams_pod.engines.builtin.towers.interleaving import interleaved
from ams_pod.media.items import Video
from fakehub import checkpoints
from families_harness import Family, audio
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    family = Family(
        "omni", checkpoints.make("qwen2_5_omni", tmp_path_factory.mktemp("layout") / "omni", dtype="float32")
    )
    family.prompts = family.recipe.prompts(200_000)
    return family


def film(seconds: float, frames: int, sound: float | None = None) -> Video:
    pixels = np.random.default_rng(0).integers(0, 255, (frames, 56, 84, 3), np.uint8)
    last = seconds - seconds / frames  # frames evenly over the time, as the authors take them
    times = tuple(last * index / max(1, frames - 1) for index in range(frames))
    return Video(pixels, times, seconds, audio(0, seconds if sound is None else sound), fitted=True)


def runs_of(omni, video: Video) -> list[tuple[str, int]]:
    processor = omni.processor
    ids = omni.prompts.expander.expand(video).ids
    names = {processor.video_token_id: "V", processor.audio_token_id: "A"}
    return [(name, len(list(run))) for name, run in itertools.groupby(names.get(token, ".") for token in ids)]


@pytest.mark.parametrize(("seconds", "sound"), [(4.0, 4.0), (10.0, 10.0), (21.5, 21.5), (10.0, 6.0), (6.0, 12.0)])
def test_at_the_authors_frame_rate_it_is_their_layout(omni, seconds: float, sound: float) -> None:
    """Two frames a second: ids are those of transformers' processor, positions those of its model."""
    frames = int(seconds * 2) // 2 * 2
    video = film(seconds, frames, sound)
    made = omni.prompts.expander.process(video)
    assert list(omni.prompts.expander.expand(video).ids) == made["input_ids"][0].tolist()
    prepared = omni.prepare("look", video, "what")
    embedder = omni.recipe.embedder(omni.model)
    ids = torch.tensor(list(prepared.ids))
    found = embedder._positions(ids, prepared.media)
    layout = prepared.media.layouts[0]
    wanted, _ = omni.model.get_rope_index(
        ids[None], video_grid_thw=torch.tensor([layout.grid]), attention_mask=torch.ones_like(ids)[None],
        use_audio_in_video=True, audio_seqlens=torch.tensor([layout.frames]),
        second_per_grids=torch.tensor([layout.seconds]),
    )  # fmt: skip
    assert torch.equal(found, wanted[:, 0])


@pytest.mark.parametrize("seconds", [3, 10, 20, 60, 600])
def test_few_frames_stay_whole(omni, seconds: int) -> None:
    """Eight frames, however long the video is: each pair of frames is one run, in the chunk of its time."""
    video = film(seconds, 8)
    runs = runs_of(omni, video)
    assert runs[0][0] == runs[-1][0] == "."
    frame = 2 * 3  # tokens of a pair of frames of 84 × 56 pixels
    pictures = [count for name, count in runs if name == "V"]
    assert sum(pictures) == 4 * frame
    assert all(count % frame == 0 for count in pictures)
    heard = 0
    step = 2 * (video.timestamps[1] - video.timestamps[0])
    shown = 0
    for name, count in runs[1:-1]:
        if name == "A":
            heard += count
        for _ in range(count // frame if name == "V" else 0):
            assert 0 <= int(shown * step * 25) - heard < 50  # right in front of the two seconds of sound it belongs to
            shown += 1


@given(
    st.lists(st.integers(0, 400), min_size=1, max_size=20).map(sorted), st.integers(1, 9), st.integers(1, 2000),
)  # fmt: skip
def test_nothing_is_lost_and_all_keeps_its_order(times: list[int], per_frame: int, tokens: int) -> None:
    runs = interleaved(times, per_frame, tokens, 50)
    for pictures, total in ((True, len(times) * per_frame), (False, tokens)):
        own = [run for run in runs if run.pictures is pictures]
        assert [run.start for run in own] == [0, *(run.end for run in own[:-1])]
        assert own[-1].end == total
    assert all(run.start % per_frame == run.end % per_frame == 0 for run in runs if run.pictures)


def test_a_video_with_few_frames_and_sound_is_answered(omni) -> None:
    from engine_harness import Driver, forward_of

    model = omni.load_model()
    driver = Driver(forward_of("flat", model, 2, 4000), embedder=omni.recipe.embedder(model))
    outcome = driver.submit_prepared(omni.prepare(film(60, 8), "what"), 5)[1]
    driver.run()
    assert (outcome.finish, outcome.error) == ("length", None)
