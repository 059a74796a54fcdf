"""Folders made of GGUF files: blocks become groups without loss, and what is served is what the file says."""

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from ams_common.fit import DeviceMemory
from ams_common.grouped_weights import GroupedWeights, grouped_weights
from ams_common.memory_offers import MemoryOffer, best_fit, needs_for, size_of
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import ModelSpec, Spec
from ams_pod.engines.builtin import choosing, compiled
from ams_pod.engines.builtin.families import text
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory import placing
from ams_pod.engines.builtin.memory.placing import Placement
from ams_pod.engines.builtin.model.gguf_blocks import group_rows
from ams_pod.engines.builtin.model.gguf_file import read_gguf
from ams_pod.engines.builtin.model.gguf_folder import Unplanned, plan, write_weights
from ams_pod.engines.builtin.model.grouped import (
    GroupedEmbedding,
    GroupedLinear,
    dequantize,
    pack_codes,
    unpack,
)
from ams_pod.engines.builtin.model.weights import count_parameters, load_weights, weight_bytes
from ams_pod.engines.port import LoadFailed, Prepared, Sampling
from fakehub.tiny_gguf import convert, make_gguf, quantized_rows
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

KINDS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


@pytest.fixture(autouse=True)
def whole_transformers(monkeypatch):
    """The converter replaces a function for good, as its process ends with the conversion."""
    from transformers import modeling_gguf_pytorch_utils

    monkeypatch.setattr(
        modeling_gguf_pytorch_utils, "load_gguf_checkpoint", modeling_gguf_pytorch_utils.load_gguf_checkpoint
    )


def load(folder: Path, keeps_groups: bool = True) -> Any:
    placement = Placement("cpu", torch.float32, keeps_groups=keeps_groups)
    return load_weights(AutoModelForCausalLM, folder, placement, lambda phase, percent: None)


def by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.tensor([[1, 7, 20, 3, 99]])).logits


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_become_groups_without_loss(kind):
    rows = quantized_rows(kind, 21, 512, np.random.default_rng(0))
    expected = torch.from_numpy(gguf.quants.dequantize(rows, gguf.GGMLQuantizationType[kind]))
    assert torch.equal(dequantize(torch.from_numpy(group_rows(kind, rows)), 21), expected)


@pytest.mark.parametrize(
    ("architecture", "kind", "tied"),
    [(architecture, kind, True) for architecture in ("llama", "qwen2", "qwen3") for kind in ("Q4_1", "Q8_0", "F16")]
    + [("llama", kind, True) for kind in ("Q4_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K")]
    + [("llama", "Q4_1", False)],
)
def test_what_is_served_is_what_transformers_reads(tmp_path, architecture, kind, tied, monkeypatch):
    monkeypatch.setattr(compiled, "_chosen", "off")  # what is in the folder counts here, not who adds it up
    hidden = 256 if kind.endswith("_K") else 64
    path = make_gguf(tmp_path / "m.gguf", architecture=architecture, kind=kind, hidden=hidden, tied=tied)
    folder = convert(path)
    own = json.loads((folder / "config.json").read_text()).get("quantization_config")
    assert (own is None) == (kind == "F16")
    model, expected = load(folder), by_transformers(path)
    assert (type(model.model.layers[1].mlp.down_proj) is GroupedLinear) == (kind != "F16")
    assert (type(model.model.embed_tokens) is GroupedEmbedding) == (kind != "F16")
    for parameter in expected.parameters():
        if parameter.dim() == 1 or kind == "F16":
            parameter.data = parameter.data.bfloat16().float()
    for name, module in expected.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
            weight = module.weight.detach()
            assert torch.equal(model.get_submodule(name).weight.detach(), weight)
    assert float((logits(model) - logits(expected)).norm() / logits(expected).norm()) < 1e-5
    same = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == same.get_vocab()
    unpacked = load(folder, keeps_groups=False)
    assert type(unpacked.model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert torch.allclose(logits(unpacked), logits(model), atol=1e-4)


def test_rows_of_llamas_queries_and_keys_are_in_the_folders_order(tmp_path):
    path = make_gguf(tmp_path / "m.gguf", kind="Q4_0")
    file = read_gguf(path)
    write_weights(file, plan(file), tmp_path)
    packed = load_file(tmp_path / "model.safetensors")
    for name in ("q_proj", "k_proj"):
        key = f"model.layers.0.self_attn.{name}.weight"
        expected = by_transformers(path).get_parameter(key)
        assert torch.equal(dequantize(packed[key], len(expected)), expected)


def test_tensors_begin_where_kernels_read_fast(tmp_path):
    model = load(convert(make_gguf(tmp_path / "m.gguf", kind="Q4_1")))
    grouped = [module.packed for module in model.modules() if isinstance(module, GroupedLinear)]
    assert len(grouped) == 15
    assert not any(packed.data_ptr() % 64 for packed in grouped)
    assert model.lm_head.packed is model.model.embed_tokens.packed
    assert weight_bytes(model) < 0.8 * count_parameters(model) + 4096, "tied ones count once"


def test_weights_are_mapped_from_the_file(tmp_path):
    model = load(convert(make_gguf(tmp_path / "m.gguf", kind="Q4_1")))
    address = model.model.layers[0].mlp.up_proj.packed.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(part, 16) for part in line.split()[0].split("-"))
        if start <= address < end:
            assert line.endswith("/model.safetensors")
            return
    pytest.fail("the weights lie nowhere")


def test_kinds_that_are_not_known_are_converted_to_bfloat16(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        folder = convert(make_gguf(tmp_path / "m.gguf", kind="IQ4_NL"))
    assert "m.gguf is converted to bfloat16: token_embd.weight of kind kind 20 isn't kept as it is" in caplog.text
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert type(load(folder).lm_head) is torch.nn.Linear


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("general.architecture", "phi3", "architecture 'phi3'"),
        ("general.architecture", ["llama"], "architecture"),
    ],
)
def test_other_architectures_are_not_planned(tmp_path, field, value, words):
    file = read_gguf(make_gguf(tmp_path / "m.gguf", kind="Q4_1"))
    file.metadata[field] = value
    with pytest.raises(Unplanned, match=words):
        plan(file)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return convert(make_gguf(tmp_path_factory.mktemp("folder") / "m.gguf", kind="Q4_1"))


def engine(folder: Path, **settings: Any) -> Any:
    given = ServeSettings(name="m", source="file:///m", concurrent_requests=2, context_tokens=64, **settings)
    return text.open_family(LoadRequest(folder, given, "cpu", torch.bfloat16, lambda events: None, lambda *each: None))


@pytest.mark.parametrize(
    ("kernels", "setting", "kept"),
    [
        (True, "auto", True),
        (False, "auto", False),
        (False, "4bit", True),
        (False, "8bit", True),
        (True, "none", False),
    ],
)
def test_groups_are_kept_where_they_are_computed_with_or_asked_for(folder, monkeypatch, kernels, setting, kept):
    for module in (placing, choosing):
        monkeypatch.setattr(module, "computes_grouped", lambda: kernels)
    served = engine(folder, quantization=setting)
    assert served.info.quantization == ("4bit" if kept else "none")
    assert served.info.quantization_reason.startswith("the weights come quantized (GGUF Q4_1)")
    config = json.loads((folder / "config.json").read_text())
    assert served.info.parameters == config["quantization_config"]["parameters"]
    assert (served.info.weights_bytes < 1.6 * served.info.parameters) == kept
    ticket = served.submit(Prepared([7, 8, 9]), Sampling(4, ignore_eos=True), None)
    while served.core.step():
        pass
    assert ticket is not None


def test_memory_that_is_short_keeps_groups(folder, monkeypatch):
    monkeypatch.setattr(placing, "computes_grouped", lambda: False)
    config = json.loads((folder / "config.json").read_text())
    given = placing.measure(folder, config, ServeSettings(name="m", source="file:///m"), "cpu", torch.bfloat16)
    short = replace(given, ram=given.parameters)
    placement = placing.choose_placement(short)
    assert placement.keeps_groups
    assert "in bfloat16 they do not fit" in placement.reason
    plain = placing.choose_placement(given)
    assert not plain.keeps_groups
    assert placing.next_smaller(plain, given).keeps_groups
    assert placing.next_smaller(placement, given) is None
    asked = replace(given, settings=ServeSettings(name="m", source="file:///m", quantization="none"))
    assert placing.next_smaller(plain, asked) is None


def test_compiled_kernels_are_found_or_not():
    assert compiled.computes_grouped() in (True, False)


def damaged(folder: Path, tmp_path: Path, change: Any, **quantization: Any) -> Path:
    made = tmp_path / "damaged"
    shutil.copytree(folder, made)
    tensors = load_file(made / "model.safetensors")
    change(tensors)
    save_file(tensors, made / "model.safetensors", {"format": "pt"})
    config = json.loads((made / "config.json").read_text())
    config["quantization_config"] |= quantization
    (made / "config.json").write_text(json.dumps(config))
    return made


NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("change", "quantization"),
    [
        (lambda tensors: tensors.update({NAME: tensors[NAME][:-1].clone()}), {}),
        (lambda tensors: tensors.update({NAME: tensors[NAME][:, :1].clone()}), {}),
        (lambda tensors: tensors.update({NAME: tensors[NAME][..., :100].clone()}), {}),
        (lambda tensors: tensors.update({NAME: tensors[NAME].flatten()}), {}),
        (lambda tensors: tensors.update({NAME: tensors[NAME].to(torch.int64)}), {}),
        (lambda tensors: tensors.update({NAME: torch.ones(3, 3)}), {}),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(64, dtype=torch.uint8)}), {}),
        (lambda tensors: tensors.pop(NAME), {}),
        (lambda tensors: None, {"version": 3}),
        (lambda tensors: None, {"bits": 3}),
        (lambda tensors: None, {"bits": "4"}),
        (lambda tensors: None, {"quant_method": "nonsense"}),
    ],
)
def test_damaged_folders_fail_to_load(folder, tmp_path, change, quantization):
    with pytest.raises(LoadFailed):
        load(damaged(folder, tmp_path, change, **quantization))


def test_folders_of_the_first_version_are_served_as_they_are(tmp_path):
    """It had K-quants, Q4_0 and Q8_0 in the layouts with an offset for each group, which are still known."""
    folder = convert(make_gguf(tmp_path / "m.gguf", kind="Q8_0"))
    expected = logits(load(folder))

    def lay_as_before(tensors: dict[str, torch.Tensor]) -> None:
        for name, packed in tensors.items():
            if packed.dtype == torch.uint8:
                q, s, m = unpack(packed, len(packed) * 16)
                tensors[name] = pack_codes(q, s.half(), m.half(), 8)
                assert torch.equal(dequantize(tensors[name], len(q)), dequantize(packed, len(q)))

    assert torch.equal(logits(load(damaged(folder, tmp_path, lay_as_before, version=1))), expected)


@pytest.mark.parametrize(
    ("own", "known"),
    [
        ({"quant_method": "grouped", "bits": 4, "parameters": 7, "file_type": "Q4_K_M"}, "GGUF Q4_K_M"),
        ({"quant_method": "grouped", "bits": 8, "parameters": 7}, "GGUF"),
        ({"quant_method": "grouped", "bits": 8, "parameters": 7, "file_type": ["x"]}, "GGUF"),
        ({"quant_method": "grouped", "bits": 4, "parameters": 0}, None),
        ({"quant_method": "grouped", "bits": 4, "parameters": True}, None),
        ({"quant_method": "grouped", "bits": 6, "parameters": 7, "file_type": "Q6_K"}, "GGUF Q6_K"),
        ({"quant_method": "grouped", "bits": 7, "parameters": 7}, None),
        ({"quant_method": "grouped", "bits": [4], "parameters": 7}, None),
        ({"quant_method": "grouped", "bits": True, "parameters": 7}, None),
        ({"quant_method": "awq", "bits": 4, "parameters": 7}, None),
        ([], None),
    ],
)
def test_what_config_json_says_of_them(own, known):
    found = grouped_weights({"quantization_config": own})
    assert (found and found.words) == known
    if known is not None:
        assert found == GroupedWeights(7, own["bits"], found.file_type)


def test_plans_count_weights_unpacked_and_as_they_are(folder):
    config = json.loads((folder / "config.json").read_text())
    size = size_of(config, 98_000)
    assert size.parameters == config["quantization_config"]["parameters"]
    unpacked, kept = needs_for(Spec(model=ModelSpec(source="hf://acme/tiny")), size)
    assert (unpacked.quantization, unpacked.weights_bytes) == ("none", 2 * size.parameters)
    assert (kept.quantization, kept.words, kept.on("cpu").weights_bytes) == ("4bit", "GGUF Q4_1", 98_000)
    little = MemoryOffer("here", DeviceMemory(ram=kept.total_bytes))
    asked = Spec(model=ModelSpec(source="hf://acme/tiny"), quantization="8bit")
    assert best_fit(asked, size, [little])[1].chosen == "4bit"
