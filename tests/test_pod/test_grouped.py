"""Weights in groups: their layout, what quantizing loses, and layers that compute with them."""

import pytest
import torch
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.model.group_layouts import BLOCKS_4, LAYOUTS, Form, Layout, layout_of
from ams_pod.engines.builtin.model.grouped import (
    GroupedEmbedding,
    GroupedLinear,
    TorchInt4Linear,
    check_packed,
    dequantize,
    dequantize_rows,
    pack_codes,
    quantize,
    unpack,
)
from ams_pod.engines.builtin.model.grouping import grouped_parameters, use_torchs_kernel
from test_pod.random_groups import by_the_contract, name_of, random_packed
from torch import nn

EACH_LAYOUT = pytest.mark.parametrize("layout", LAYOUTS, ids=name_of)
BITS = pytest.mark.parametrize("bits", [4, 8])


def codes(outputs, inputs, bits, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randint(2**bits, (outputs, inputs), generator=generator, dtype=torch.uint8)
    s, m = torch.randn(2, outputs, inputs // 32, generator=generator).half()
    return q, s, m


def weights(outputs, inputs, seed=0):
    return torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(seed)) * 0.05


@EACH_LAYOUT
def test_each_weight_lies_where_the_kernels_look_for_it(layout):
    inputs = 2 * layout.inputs
    packed = random_packed(layout, 21, inputs)
    assert check_packed(packed, 21) == layout == layout_of(packed.shape[2])
    q, s, m = unpack(packed, 21)
    each = s.shape[1] // (inputs // 32)
    for output in range(21):
        for k in range(inputs):
            at = k // (32 // each)
            assert by_the_contract(packed, layout, output, k) == (s[output, at], q[output, k], m[output, at])


@EACH_LAYOUT
@pytest.mark.parametrize(("outputs", "blocks"), [(1, 1), (16, 1), (21, 3), (4096, 5)])
def test_what_is_unpacked_makes_the_weights(layout, outputs, blocks):
    packed = random_packed(layout, outputs, blocks * layout.inputs)
    q, s, m = unpack(packed, outputs)
    each = q.shape[1] // s.shape[1]
    exact = s.repeat_interleave(each, 1) * q + m.repeat_interleave(each, 1)
    assert torch.equal(dequantize(packed, outputs), exact)
    assert torch.equal(dequantize(packed, outputs, torch.bfloat16), exact.bfloat16())
    rows = torch.tensor([outputs - 1, 0, outputs // 2])
    assert torch.equal(dequantize_rows(packed, rows), exact[rows])


@BITS
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (16, 32), (21, 96), (4096, 160)])
def test_what_is_packed_is_unpacked(bits, centred, outputs, inputs):
    q, s, m = codes(outputs, inputs, bits)
    packed = pack_codes(q, s, None if centred else m, bits)
    assert check_packed(packed, outputs) == Layout(Form.CENTRED if centred else Form.AFFINE, bits)
    expected = -s.float() * 2 ** (bits - 1) if centred else m.float()
    for found, wanted in zip(unpack(packed, outputs), (q, s.float(), expected), strict=True):
        assert torch.equal(found, wanted)
    _, padding, _ = unpack(packed, -(-outputs // 16) * 16)
    assert not padding[outputs:].any()


def test_8_bits_are_symmetric_and_lose_half_a_step():
    weight = weights(40, 96)
    packed = quantize(weight, 8)
    _, s, m = unpack(packed, 40)
    assert torch.equal(m, s * -128)
    error = (dequantize(packed, 40) - weight).abs().view(40, 3, 32)
    assert bool((error <= weight.abs().view(40, 3, 32).amax(-1, keepdim=True) / 127 * 0.51).all())


def test_4_bits_lose_less_than_scaling_the_range_does():
    weight = weights(64, 256)
    error = (dequantize(quantize(weight, 4), 64) - weight).norm()
    groups = weight.view(64, 8, 32)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / 15
    plain = ((groups - low) / scale).round() * scale + low
    assert error < 0.92 * (plain - groups).norm()


@BITS
@pytest.mark.parametrize(
    ("weight", "tolerance"),
    [
        (torch.zeros(3, 32), 0),
        (torch.full((3, 32), 0.3), 1e-3),
        (torch.full((3, 32), -0.3), 1e-3),
        (torch.full((3, 32), 1e-9), 1e-7),
        (torch.cat((torch.zeros(3, 31), torch.full((3, 1), 7.0)), 1), 5e-3),
        (torch.linspace(5, 6, 96).view(3, 32), 0.2),
        (weights(3, 32) * 1e-4, 2e-6),
    ],
)
def test_odd_groups_are_quantized(bits, weight, tolerance):
    assert torch.allclose(dequantize(quantize(weight, bits), 3), weight, atol=tolerance, rtol=0)


@BITS
def test_what_is_no_number_stays_none(bits):
    weight = weights(20, 64)
    weight[17, 40] = torch.nan
    found = dequantize(quantize(weight, bits), 20)
    assert bool(found[17, 32:].isnan().any())
    assert not bool(found[:17].isnan().any())


@BITS
def test_pieces_make_no_difference(bits):
    weight = weights(4096, 256)
    packed = quantize(weight, bits)
    assert torch.equal(quantize(weight[2048:2064], bits), packed[128:129])
    assert torch.equal(quantize(weight.bfloat16(), bits), quantize(weight.bfloat16().float(), bits))


@BITS
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_computes_with_its_dequantized_weights(bits, bias, dtype, monkeypatch):
    monkeypatch.setattr(compiled, "_chosen", "off")  # what the kernels do with them has tests of its own
    linear = nn.Linear(64, 24, bias=bias, dtype=dtype)
    grouped = GroupedLinear.of(linear, bits)
    assert isinstance(grouped, nn.Linear)
    assert (grouped.in_features, grouped.out_features) == (64, 24)
    assert grouped.weight.dtype == dtype
    x = torch.randn(2, 5, 64, dtype=dtype)
    assert torch.equal(grouped(x), nn.functional.linear(x, grouped.weight, grouped.bias))
    assert set(grouped.state_dict()) == ({"packed", "bias"} if bias else {"packed"})
    assert sum(p.numel() for p in grouped.parameters()) == (24 if bias else 0)


@BITS
def test_embeddings_are_the_rows_of_their_dequantized_weights(bits):
    packed = quantize(weights(50, 64), bits)
    embedding = GroupedEmbedding(packed, 50, torch.bfloat16)
    ids = torch.tensor([[0, 49, 7], [7, 16, 15]])
    assert isinstance(embedding, nn.Embedding)
    assert torch.equal(embedding(ids), nn.functional.embedding(ids, embedding.weight))
    with pytest.raises(IndexError):
        GroupedEmbedding(packed, 50)(torch.tensor([1 << 20]))


@BITS
def test_tensors_of_another_shape_are_refused(bits):
    packed = quantize(weights(50, 64), bits)
    for wrong in (packed[:-1], packed[..., :-1], packed[0], packed.int(), packed[:, :0]):
        with pytest.raises(ValueError, match="isn't"):
            GroupedLinear(wrong, 50)
    with pytest.raises(ValueError, match="outputs"):
        GroupedLinear(packed, 16)
    with pytest.raises(ValueError, match="can't be grouped"):
        quantize(weights(16, 40), bits)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("outputs", "inputs"), [(24, 64), (192, 576), (1, 32), (576, 192)])
def test_torchs_kernel_computes_the_same(outputs, inputs, bias):
    linear = nn.Linear(inputs, outputs, bias=bias, dtype=torch.bfloat16)
    grouped = GroupedLinear.of(linear, 4)
    repacked = TorchInt4Linear(grouped)
    x = torch.randn(2, 5, inputs, dtype=torch.bfloat16)
    expected = nn.functional.linear(x.float(), grouped.weight.float(), None if bias is False else linear.bias.float())
    assert repacked(x).dtype == torch.bfloat16
    assert repacked(x).shape == (2, 5, outputs)
    assert float((repacked(x).float() - expected).detach().norm() / expected.detach().norm()) < 0.01
    assert torch.allclose(repacked.weight.float(), grouped.weight.float(), atol=0.005)


def test_layers_of_4_bits_get_torchs_kernel_and_others_stay():
    model = nn.Sequential(
        GroupedLinear(quantize(weights(32, 64), 4), 32), GroupedLinear(quantize(weights(8, 32), 8), 8)
    )
    model.append(GroupedLinear(quantize(weights(8, 32), 8), 8))
    model.insert(0, GroupedLinear(random_packed(BLOCKS_4, 64, 256), 64))
    counted = grouped_parameters(model)
    use_torchs_kernel(model, model[3])
    assert [type(layer) for layer in model] == [TorchInt4Linear, TorchInt4Linear, GroupedLinear, nn.Linear]
    assert grouped_parameters(model) == counted - 8 * 32 == 64 * 256 + 32 * 64 + 8 * 32
