"""Towers in parts: what they make stays the same, and nothing in them takes long without a pause."""

import functools
import gc
import time
import weakref

import pytest
import torch
from ams_pod.engines.builtin.towers import interruptible
from ams_pod.engines.builtin.towers.interruptible import between_parts, make_interruptible
from fakehub import checkpoints
from families_harness import Family, audio, image, video

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.family("vision-language", "qwen3-vl", "audio-language", "omni"),
]

CONTENT = {
    "vision-language": [image(0, 200, 240), video(1, 5)],
    "qwen3-vl": [image(0, 200, 240), video(1, 5)],
    "audio-language": [audio(0, 3.0)],
    "omni": [image(0, 200, 240), video(1, 5), audio(2, 5.0)],
}


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    @functools.cache
    def family(name):
        folder = tmp_path_factory.mktemp("parts") / name
        return Family(name, checkpoints.make(checkpoints.OF_FAMILY[name], folder, dtype="float32"))

    return family


@pytest.mark.parametrize("name", CONTENT)
def test_parts_make_what_the_whole_makes(families, name, monkeypatch):
    family = families(name)
    model = family.load_model()
    prepared = family.prepare(*CONTENT[name], "what")
    embedder = family.recipe.embedder(model)
    features = [result for piece in embedder.pieces(prepared) for result in embedder.encode([piece])]
    whole = embedder.merge(prepared, features).embeds
    monkeypatch.setattr(interruptible, "part_flops", lambda tensor: 1e5)
    monkeypatch.setattr(interruptible, "_LEAST_ROWS", 8)
    pauses = []
    features = [
        result for piece in embedder.pieces(prepared) for result in embedder.encode([piece], lambda: pauses.append(1))
    ]
    assert torch.allclose(embedder.merge(prepared, features).embeds, whole, atol=1e-5)
    assert len(pauses) > 100


class Tower(torch.nn.Module):
    """What large towers are made of: rows that attend to each other, and an MLP."""

    is_causal = False

    def __init__(self, width=512):
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(width, width)])
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(width, 4 * width), torch.nn.GELU(), torch.nn.Linear(4 * width, width)
        )

    def forward(self, rows):
        heads = self.layers[0](rows).view(1, len(rows), 8, -1).transpose(1, 2)
        attended, _ = interruptible._attend(self, heads, heads, heads, None)
        return self.mlp(attended.reshape(len(rows), -1))


def test_a_large_picture_is_never_long_without_a_pause():
    """Of 16,000 patches, whose layer takes seconds as a whole."""
    tower = Tower().eval()
    rows = torch.randn(16_000, 512)
    make_interruptible(tower)
    gaps, last = [], time.perf_counter()

    def note():
        nonlocal last
        now = time.perf_counter()
        gaps.append(now - last)
        last = now

    started = time.perf_counter()
    with torch.inference_mode(), between_parts(note):
        tower(rows)
    whole = time.perf_counter() - started
    note()
    assert len(gaps) > 10
    assert max(gaps) < whole / 3


def test_what_runs_in_a_pause_is_not_paused():
    tower = Tower(64).eval()
    make_interruptible(tower)
    depth = []

    def other():
        depth.append(1)
        with torch.inference_mode():
            tower(torch.randn(4, 64))

    with torch.inference_mode(), between_parts(other):
        tower(torch.randn(4, 64))
    assert depth


def test_a_tower_goes_when_nobody_needs_it():
    """Its weights are gigabytes: no cycle may keep them until the collector comes by."""
    tower = Tower(64)
    make_interruptible(tower)
    seen = weakref.ref(tower)
    gc.disable()
    try:
        del tower
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("causal", [None, True, False])
def test_attention_in_parts_looks_where_the_whole_looks(causal, monkeypatch):
    """Where tokens see only what is before them, parts of the queries would see something else."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    monkeypatch.setattr(interruptible, "part_flops", lambda tensor: 1e5)
    heads = [torch.randn(1, 2, 300, 16) for _ in range(3)]
    options = {"is_causal": causal, "scaling": 0.25, "dropout": 0.0}
    module = torch.nn.Module()
    found, _ = interruptible._attend(module, *heads, None, **options)
    assert torch.allclose(found, sdpa_attention_forward(module, *heads, None, **options)[0], atol=1e-5)
