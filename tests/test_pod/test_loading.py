"""Where weights go: the choice from sizes and memory, what is told meanwhile, and what happens when memory runs out."""

import json
import logging
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ams_common.fit import DeviceMemory, fit_on, too_large_sentence
from ams_common.lifecycle import Phase
from ams_common.memory_offers import needs_for, size_of
from ams_common.pod_settings import ServeSettings
from ams_common.resource.spec import ModelSpec, Spec
from ams_pod.engines.builtin import compiled, loading
from ams_pod.engines.builtin.families import text
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.memory import device_memory, placing
from ams_pod.engines.builtin.memory.placing import Placement, PlacementInputs, choose_placement, next_smaller
from ams_pod.engines.builtin.model.native import preview
from ams_pod.engines.port import LoadFailed
from fakehub import checkpoints

GIB = 1 << 30
CONFIG = {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151_936, "tie_word_embeddings": False, "max_position_embeddings": 131_072,
}  # fmt: skip


def inputs(device: str, gib: float, ram: float = 64, **settings: Any) -> PlacementInputs:
    """An 8-billion-parameter model beside `gib` of the GPU's memory, or of the machine's."""
    given = ServeSettings(name="m", source="file:///m", **settings)
    free = {0: int(gib * GIB)} if device == "cuda" else {}
    return PlacementInputs(
        8_190_000_000, CONFIG, given, device, torch.bfloat16, free, int((gib if device == "cpu" else ram) * GIB)
    )


@pytest.mark.parametrize(
    ("device", "gib", "settings", "quantization", "words"),
    [
        ("cuda", 80, {}, "none", "15.3 GiB in bfloat16 + 2.2 GiB cache fits 80.0 GiB"),
        ("cuda", 16, {}, "8bit", "does not fit 16.0 GiB; 8.8 GiB in 8-bit does"),
        ("cuda", 10, {}, "4bit", "does not fit 10.0 GiB; "),
        ("cuda", 80, {"quantization": "4bit"}, "4bit", "asked for; "),
        ("cuda", 80, {"quantization": "8bit"}, "8bit", "asked for; "),
        ("cuda", 7.5, {"quantization": "4bit"}, "4bit", "the weights do, with less for the cache"),
        ("cpu", 64, {}, "none", "fits 64.0 GiB"),
        ("cpu", 16, {}, "8bit", "does not fit 16.0 GiB; "),
        ("cpu", 9, {}, "4bit", "does not fit 9.0 GiB; "),
        ("cpu", 16, {"quantization": "8bit"}, "8bit", "asked for; "),
        ("cpu", 16, {"quantization": "none"}, "none", "the weights do, with less for the cache"),
    ],
)
def test_the_best_quantization_that_fits(device, gib, settings, quantization, words):
    placement = choose_placement(inputs(device, gib, **settings))
    assert (placement.quantization, placement.spread) == (quantization, None)
    assert words in placement.reason


def test_what_no_gpu_holds_is_spread_over_it_and_the_machine():
    placement = choose_placement(inputs("cuda", 4, ram=64))
    assert placement.quantization == "none"
    assert placement.spread is not None
    assert set(placement.spread) == {0, "cpu"}
    assert placement.spread[0] < 4 * GIB
    assert placement.reason.endswith("spread over devices")


@pytest.mark.parametrize(
    ("device", "gib", "ram", "settings", "words"),
    [
        ("cuda", 2, 4, {}, "cache does not fit 2.0 GiB, the smallest there is; give it more memory"),
        ("cuda", 4, 64, {"quantization": "8bit"}, r"8\.8 GiB in 8-bit .* does not fit 4\.0 GiB; give it more memory"),
        ("cpu", 4, 4, {}, "does not fit 4.0 GiB, the smallest there is; give it more memory"),
    ],
)
def test_weights_that_fit_nowhere_are_refused_with_the_numbers(device, gib, ram, settings, words):
    with pytest.raises(LoadFailed, match=words) as failed:
        choose_placement(inputs(device, gib, ram, **settings))
    assert failed.value.reason == "DoesNotFitMemory", "as preflight says it"


def test_weights_that_are_quantized_already_stay_as_they_are():
    given = inputs("cuda", 80)
    given = replace(given, config={**CONFIG, "quantization_config": {"quant_method": "awq"}})
    assert choose_placement(given).reason == "the weights come quantized by awq"
    with pytest.raises(LoadFailed, match="quantized already"):
        choose_placement(replace(given, settings=ServeSettings(name="m", source="file:///m", quantization="4bit")))


def test_smaller_ones_until_nothing_is_left():
    given = inputs("cuda", 80)
    placement = choose_placement(given)
    tried = []
    while placement is not None:
        tried.append((placement.quantization, placement.spread is not None))
        placement = next_smaller(placement, given)
    assert tried == [("none", False), ("8bit", False), ("4bit", False), ("none", True)]
    assert next_smaller(Placement("cpu", torch.bfloat16), inputs("cpu", 64)).quantization == "8bit"
    assert next_smaller(Placement("cpu", torch.bfloat16, "8bit"), inputs("cpu", 64)).quantization == "4bit"
    assert next_smaller(Placement("cpu", torch.bfloat16), inputs("cpu", 64, quantization="none")) is None


@pytest.mark.parametrize("words", ["[1]", "8", '{"0": "much"}', "{"])
def test_a_bad_memory_limit_is_refused(words):
    with pytest.raises(LoadFailed, match="maxMemory"):
        device_memory.limits(words)


def test_a_memory_limit_bounds_what_is_free():
    assert device_memory.free_bytes("cpu", {"cpu": 1 << 20}) == 0  # this process has more already
    assert 0 < device_memory.free_bytes("cpu", {"cpu": 1 << 60}) <= device_memory.ram_available() + (64 << 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return checkpoints.make("qwen3", tmp_path_factory.mktemp("loading") / "qwen3")


def load(folder, quantization="auto", dtype=torch.float32, **settings):
    reports: list[tuple[str, float | None]] = []
    given = ServeSettings(
        name="m", source="file:///m", quantization=quantization, concurrent_requests=2, context_tokens=64, **settings
    )
    engine = text.open_family(
        LoadRequest(folder, given, "cpu", dtype, lambda events: None, lambda *each: reports.append(each))
    )
    return engine, reports


def test_progress_is_told_in_percent(folder):
    _, reports = load(folder)
    phases = list(dict.fromkeys(phase for phase, _ in reports))
    assert phases == ["building", "reading", "packing", "warming-up"]
    percents = [percent for phase, percent in reports if phase == Phase.READING]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert len(percents) > 10


def test_parameters_are_counted_before_anything_is_loaded(folder):
    engine, _ = load(folder)
    assert placing.stored_parameters(folder, {}) == engine.info.parameters
    layers = placing.stored_parameters(folder, {}, "model.layers.")
    assert 0 < layers < engine.info.parameters
    assert placing.stored_parameters(folder, {}, "thinker.") == engine.info.parameters  # no part of another model


def test_memory_that_runs_out_while_loading_leads_to_8_bit(folder, monkeypatch, caplog):
    real = text.AutoModelForCausalLM.from_pretrained
    given: list[bool] = []

    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        given.append("quantization_config" in options)
        if len(given) == 1:
            raise torch.OutOfMemoryError("injected")
        return real(*arguments, **options)

    monkeypatch.setattr(text.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with caplog.at_level(logging.WARNING):
        engine, _ = load(folder)
    assert given[:2] == [False, True]
    assert engine.info.quantization == "8bit"
    assert engine.info.quantization_reason == "memory ran out while loading in float32"
    assert "memory ran out while loading (injected)" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("injected"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried 1 TB"),
    ],
)
def test_memory_that_runs_out_for_good_is_told_with_the_numbers(folder, monkeypatch, error):
    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(text.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(
        LoadFailed, match=r"memory ran out while loading .* KiB of weights in 4-bit; give it more memory"
    ) as failed:
        load(folder)
    assert failed.value.reason == "DoesNotFitMemory"


def test_other_failures_are_not_taken_for_it(folder, monkeypatch):
    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("sizes differ")

    monkeypatch.setattr(text.AutoModelForCausalLM, "from_pretrained", from_pretrained)
    with pytest.raises(LoadFailed, match="RuntimeError: sizes differ"):
        load(folder)


def test_float16_needs_a_gpu():
    with pytest.raises(LoadFailed, match="float16 needs a GPU"):
        loading.choose_dtype("float16", "cpu")


@pytest.mark.parametrize(
    ("precision", "best", "computed", "dtype"),
    [
        ("auto", torch.bfloat16, False, torch.bfloat16),
        ("auto", torch.float32, False, torch.float32),
        ("auto", torch.float32, True, torch.bfloat16),
        ("float32", torch.float32, True, torch.float32),
    ],
)
def test_a_cpu_without_bfloat16_has_it_where_the_kernels_compute(precision, best, computed, dtype, monkeypatch):
    monkeypatch.setattr(loading, "best_dtype", lambda device: best)
    assert loading.choose_dtype(precision, "cpu", lambda: computed) == dtype


@pytest.mark.parametrize(("family", "dtype"), [("text", torch.bfloat16), ("vision-language", torch.float32)])
def test_towers_stay_in_what_torch_computes_fast(family, dtype, folder, monkeypatch):
    requests: list[LoadRequest] = []
    monkeypatch.setattr(loading, "best_dtype", lambda device: torch.float32)
    monkeypatch.setattr(loading, "kernels_compute", lambda folder: True)
    monkeypatch.setattr(loading, "family_module", lambda name: SimpleNamespace(open_family=requests.append))
    settings = ServeSettings(name="m", source="file:///m", family=family, threads=torch.get_num_threads())
    loading.load_engine(folder, settings, lambda *told: None, lambda *told: None)
    assert requests[0].dtype == dtype


def test_whether_kernels_compute_a_model_is_known_before_it_is_loaded(folder, tmp_path, monkeypatch):
    if compiled.load() is None:
        pytest.skip(compiled.unavailable())
    config = {**json.loads((folder / "config.json").read_text()), "head_dim": 32}

    def computed(**changed: Any) -> bool:
        (tmp_path / "config.json").write_text(json.dumps({**config, **changed}))
        return preview.kernels_compute(tmp_path)

    assert computed()
    assert not computed(head_dim=16)
    assert not computed(hidden_act="gelu")
    assert not computed(model_type="nobody_knows")
    monkeypatch.setattr(compiled, "_chosen", "off")
    assert not computed()


def test_damaged_headers_count_nothing(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0not json")
    (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "float32"}))
    assert placing.stored_parameters(tmp_path, {}) == 0


def test_seventy_billion_parameters_on_one_card_end_as_preflight_would_have_refused_them():
    sizes = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "head_dim": 128}
    config = {**CONFIG, **sizes, "vocab_size": 128_256}
    given = replace(inputs("cuda", 24, ram=32), parameters=70_500_000_000, config=config)
    with pytest.raises(LoadFailed) as failed:
        choose_placement(given)
    needs = needs_for(Spec(model=ModelSpec(source="hf://acme/large")), size_of(config, 141_000_000_000))
    fit = fit_on(needs, DeviceMemory((24 * GIB,), 32 * GIB))
    assert (failed.value.reason, str(failed.value)) == ("DoesNotFitMemory", too_large_sentence(fit.reason))
