"""Towers with packed weights and the kernels' attention: as near to exact numbers as torch's operators are."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.towers import attention, interruptible, packed, spans
from ams_pod.engines.builtin.towers.attention import seen_of
from ams_pod.engines.builtin.towers.interruptible import between_parts, make_interruptible
from ams_pod.engines.builtin.towers.native import has_matrix_units, make_native, why_not
from ams_pod.engines.builtin.towers.spans import Part, Span, parts, spans_between
from torch import Tensor, nn

needs_kernels = pytest.mark.skipif(
    compiled.load() is None or not packed.packing_works(), reason="the kernels or bfloat16 aren't here"
)
GRID = torch.tensor([[1, 12, 20], [2, 8, 6]])
PATCHES = 12 * 20 + 2 * 8 * 6


@dataclass(frozen=True)
class Case:
    """A tower and how it is called, in its own precision."""

    make: Callable[[], nn.Module]
    call: Callable[[Any, torch.dtype], Tensor]


def _qwen2_5_vl() -> nn.Module:
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as module

    config = module.Qwen2_5_VLVisionConfig(
        depth=3, hidden_size=160, intermediate_size=212, num_heads=2, out_hidden_size=64, fullatt_block_indexes=[1]
    )
    config._attn_implementation = "sdpa"
    return module.Qwen2_5_VisionTransformerPretrainedModel(config)


def _qwen3_vl() -> nn.Module:
    from transformers.models.qwen3_vl import modeling_qwen3_vl as module

    config = module.Qwen3VLVisionConfig(
        depth=3, hidden_size=144, intermediate_size=260, num_heads=2, out_hidden_size=64, deepstack_visual_indexes=[0]
    )
    config._attn_implementation = "sdpa"
    return module.Qwen3VLVisionModel(config)


def _omni_pictures() -> nn.Module:
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as module

    config = module.Qwen2_5OmniVisionEncoderConfig(
        depth=3, hidden_size=160, intermediate_size=212, num_heads=2, out_hidden_size=64, fullatt_block_indexes=[1]
    )
    config._attn_implementation = "sdpa"
    return module.Qwen2_5OmniVisionEncoder(config)


def _omni_sound() -> nn.Module:
    from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as module

    config = module.Qwen2_5OmniAudioEncoderConfig(
        d_model=128, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=256, output_dim=64
    )
    config._attn_implementation = "sdpa"
    return module.Qwen2_5OmniAudioEncoder(config)


def _qwen2_audio() -> nn.Module:
    from transformers.models.qwen2_audio import modeling_qwen2_audio as module

    config = module.Qwen2AudioEncoderConfig(
        d_model=128, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=256, max_source_positions=150
    )
    config._attn_implementation = "sdpa"
    return module.Qwen2AudioEncoder(config)


def _blip() -> nn.Module:
    from transformers.models.blip import modeling_blip as module

    return module.BlipVisionModel(
        module.BlipVisionConfig(
            hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=2, image_size=96
        )
    )


def _seed(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3)).bfloat16()


def _clips(tower: Any, dtype: torch.dtype) -> Tensor:
    """One that fills the time, and one of which 40 positions are heard."""
    mask = torch.arange(150)[None] < torch.tensor([150, 40])[:, None]
    made = tower(_seed(2, 128, 300).to(dtype), attention_mask=mask[:, None, None].expand(2, 1, 150, 150))
    states: Tensor = made.last_hidden_state
    return torch.cat((states[0], states[1, :20]))


def _pictures(tower: Any, dtype: torch.dtype) -> Tensor:
    patch = tower.config.patch_size
    made: Tensor = tower(_seed(PATCHES, 3 * 2 * patch * patch).to(dtype), GRID).pooler_output
    return made


CASES = {
    "Qwen2.5-VL": Case(_qwen2_5_vl, _pictures),
    "Qwen3-VL": Case(_qwen3_vl, _pictures),
    "Qwen2.5-Omni, pictures": Case(_omni_pictures, _pictures),
    "Qwen2.5-Omni, sound": Case(
        _omni_sound,
        lambda tower, dtype: tower(_seed(128, 530).to(dtype), feature_lens=torch.tensor([330, 200])).last_hidden_state,
    ),
    "Qwen2-Audio": Case(_qwen2_audio, _clips),
    "BLIP": Case(_blip, lambda tower, dtype: tower(_seed(2, 3, 96, 96).to(dtype)).last_hidden_state),
}


def _tower(case: Case) -> nn.Module:
    """In bfloat16, of weights at which attention chooses and activations bend."""
    torch.manual_seed(1)
    tower = case.make().eval()
    for name, parameter in tower.named_parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.2 * parameter[0].numel() ** -0.5)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return tower.to(torch.bfloat16)


def _error(found: Tensor, exact: Tensor) -> float:
    return float((found.float() - exact).norm() / exact.norm())


@needs_kernels
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_native_tower_is_as_near_to_exact_numbers_as_torchs(name: str) -> None:
    case = CASES[name]
    plain = _tower(case)
    native, exact = copy.deepcopy(plain), copy.deepcopy(plain).float()
    assert make_native(native)
    expected = case.call(exact, torch.float32)
    eager = _error(case.call(plain, torch.bfloat16), expected)
    assert _error(case.call(native, torch.bfloat16), expected) <= 1.2 * eager < 0.05
    if not has_matrix_units():
        kinds = {type(module).__name__ for module in native.modules()} & set(attention.KINDS)
        assert len(kinds) == 1  # the tower's class of attention is one that is known


@needs_kernels
@pytest.mark.parametrize("name", CASES)
def test_no_weights_are_kept_beside_the_packed_ones(name: str) -> None:
    tower = _tower(CASES[name])
    count = sum(parameter.numel() for parameter in tower.parameters())
    make_native(tower)
    linears = [module for module in tower.modules() if type(module) is nn.Linear]
    assert linears
    assert all(module.weight.untyped_storage().nbytes() <= 2 for module in linears)
    assert sum(parameter.numel() for parameter in tower.parameters()) == count  # as the authors count them


@needs_kernels
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_native_tower_is_interrupted_between_its_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    tower = _tower(case)
    make_native(tower)
    whole = case.call(tower, torch.bfloat16)
    make_interruptible(tower)
    for module in (interruptible, spans):
        monkeypatch.setattr(module, "part_flops", lambda tensor: 1e5)
    pauses: list[int] = []
    with between_parts(lambda: pauses.append(1)):
        found = case.call(tower, torch.bfloat16)
    assert _error(found, whole.float()) < 5e-3
    assert len(pauses) > 10


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_a_tower_stays_as_it_is_without_kernels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_chosen", "off")
    case = CASES[name]
    tower = _tower(case)
    before = case.call(tower, torch.bfloat16)
    assert not make_native(tower)
    assert torch.equal(case.call(tower, torch.bfloat16), before)
    assert all("forward" not in vars(module) for module in tower.modules())


def test_other_precisions_and_devices_stay() -> None:
    assert "float32" in why_not(nn.Linear(4, 4))
    assert "meta" in why_not(nn.Linear(4, 4, device="meta"))


def test_spans_lie_between_bounds() -> None:
    assert spans_between([0, 3, 3, 8]) == [Span(0, 3, 3), Span(3, 5, 5)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((4, 4, 1000, 1.0, 2.0), [Part(0, 4, 0, 1000, True)]),
        ((3, 2, 100, 1.0, 2.0), [Part(0, 2, 0, 100, True), Part(2, 3, 0, 100, True)]),
        ((2, 2, 300, 3.0, 2.0), [Part(0, 2, 0, 200, True), Part(0, 2, 200, 300, False)]),
        ((1, 1, 300, 9.0, 0.1), [Part(0, 1, 0, 128, True), Part(0, 1, 128, 256, False), Part(0, 1, 256, 300, False)]),
    ],
)
def test_parts_are_some_heads_and_of_these_some_queries(arguments: Any, expected: list[Part]) -> None:
    assert parts(*arguments) == expected


def test_only_masks_of_padding_behind_are_understood() -> None:
    lengths = torch.arange(5)[None] < torch.tensor([5, 2])[:, None]
    mask = lengths[:, None, None].expand(2, 1, 5, 5)
    assert seen_of(mask) == [5, 2]
    assert seen_of(torch.where(mask, 0.0, float("-inf"))) == [5, 2]
    assert seen_of(mask.flip(-1)) is None
    assert seen_of(torch.ones(5, 5).tril().bool()[None, None]) is None
    assert seen_of(torch.zeros(1, 1, 5, 5, dtype=torch.bool)) is None
