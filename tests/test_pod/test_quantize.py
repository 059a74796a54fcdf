"""8-bit and 4-bit weights: the same engine, the same answers as the quantized model's own generate."""

from typing import Any

import msgspec
import pytest
import torch
from ams_common.pod_settings import ServeSettings
from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.families import family_module
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.grouped import GroupedEmbedding, GroupedLinear, dequantize
from ams_pod.engines.builtin.model.grouping import dequantize_modules
from ams_pod.engines.builtin.model.weights import load_weights
from ams_pod.engines.port import Prepared, Sampling
from engine_harness import Driver, forward_of, prompts, reference
from fakehub import checkpoints
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("quantize") / "qwen3")


def quantized(folder, kind, dtype=torch.float32):
    model = load_weights(AutoModelForCausalLM, folder, Placement("cpu", dtype, kind), lambda phase, percent: None)
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def test_4_bit_in_a_mixed_batch_equals_its_own_generate(folder):
    wanted = prompts(5, seed=3)
    model = quantized(folder, "4bit")
    layer, head, table = model.model.layers[0].self_attn.q_proj, model.lm_head, model.model.embed_tokens
    assert (type(layer), layer.layout.bits) == (GroupedLinear, 4)
    assert (type(head), head.layout.bits, type(table), table.layout.bits) == (GroupedLinear, 8, GroupedEmbedding, 8)
    assert (head.packed.data_ptr() == table.packed.data_ptr()) == model.config.tie_word_embeddings
    expected = [reference(model, ids, 12) for ids in wanted]
    driver = Driver(forward_of("flat", model, 3, 160))
    outcomes = [driver.submit(ids, 12)[1] for ids in wanted]
    driver.run()
    assert [outcome.tokens for outcome in outcomes] == expected


@pytest.mark.parametrize("kind", ["4bit", "8bit"])
@pytest.mark.parametrize(
    ("checkpoint", "family", "towers"),
    [
        ("llama", "text", ()),
        ("qwen2_5_vl", "vision-language", ("model.visual",)),
        ("qwen3_vl", "qwen3-vl", ("model.visual",)),
        ("qwen2_audio", "audio-language", ("model.audio_tower", "model.multi_modal_projector")),
        ("qwen2_5_omni", "omni", ("model.visual", "model.audio_tower")),
        ("blip_vqa", "vqa", ("vision_model",)),
    ],
)
def test_all_families_load_quantized_and_their_towers_stay(tmp_path_factory, checkpoint, family, towers, kind):
    folder = checkpoints.make(checkpoint, tmp_path_factory.mktemp("quantized") / checkpoint)
    settings = ServeSettings(name="m", source="file:///m", quantization=kind, concurrent_requests=2, context_tokens=256)
    events: list[Any] = []
    engine = family_module(family).open_family(
        LoadRequest(folder, settings, "cpu", torch.bfloat16, events.extend, lambda phase, percent: None)
    )
    assert engine.info.quantization == kind
    assert engine.info.quantization_reason.startswith("asked for; ")
    unquantized = msgspec.structs.replace(settings, quantization="none")
    plain = family_module(family).open_family(
        LoadRequest(folder, unquantized, "cpu", torch.bfloat16, events.extend, lambda phase, percent: None)
    )
    assert engine.info.parameters == plain.info.parameters
    assert engine.info.weights_bytes < plain.info.weights_bytes
    if family == "vqa":
        model = engine.core._model
    else:
        ticket = engine.submit(Prepared([7, 8, 9]), Sampling(4, ignore_eos=True), None)
        while engine.core.step():
            pass
        assert [event.finish for event in events if event.ticket is ticket] == [None, None, None, "length"]
        embedder = engine.core._towers._embedder if towers else None
        model = None if embedder is None else next(iter(embedder._towers.values()))._model
    for path in towers:
        tower = model.get_submodule(path if family == "vqa" else path.removeprefix("model."))
        names = {type(module).__name__ for module in tower.modules()}
        assert "Linear" in names
        assert not names & {"GroupedLinear", "TorchInt4Linear"}


@pytest.mark.parametrize(("kind", "nearest"), [("4bit", 0.1), ("8bit", 0.01)])
def test_quantized_layers_are_near_what_the_folder_holds(folder, kind, nearest):
    plain, near = quantized(folder, "none"), quantized(folder, kind)
    for name, module in near.named_modules():
        if isinstance(module, GroupedLinear | GroupedEmbedding):
            weight = plain.get_submodule(name).weight.detach()
            assert float((module.weight - weight).norm() / weight.norm()) < nearest
    grouped = {name for name, module in near.named_modules() if isinstance(module, GroupedLinear)}
    assert grouped == {name for name, module in plain.named_modules() if isinstance(module, torch.nn.Linear)}


def test_unpacked_layers_compute_the_same(folder, monkeypatch):
    monkeypatch.setattr(compiled, "_chosen", "off")
    model = quantized(folder, "4bit")
    ids = torch.tensor([prompts(1, seed=4)[0]])
    expected = model(input_ids=ids).logits
    dequantize_modules(model)
    assert {type(module) for module in (model.lm_head, model.model.layers[0].mlp.up_proj)} == {torch.nn.Linear}
    assert type(model.model.embed_tokens) is torch.nn.Embedding
    assert torch.allclose(model(input_ids=ids).logits, expected, atol=1e-5)
    tied = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert tied == model.config.tie_word_embeddings


def test_layers_of_gpt2s_kind_are_transposed(tmp_path):
    config = GPT2Config(n_embd=64, n_layer=1, n_head=2, vocab_size=100, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    plain, near = quantized(tmp_path, "none"), quantized(tmp_path, "8bit")
    layer = near.transformer.h[0].attn.c_attn
    assert (layer.in_features, layer.out_features) == (64, 192)
    weights = dequantize(layer.packed, 192)
    assert torch.allclose(weights, plain.transformer.h[0].attn.c_attn.weight.T, atol=1e-3)
    ids = torch.arange(9)[None]
    assert torch.allclose(near(input_ids=ids).logits, plain(input_ids=ids).logits, atol=0.02)
