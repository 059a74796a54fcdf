"""What a pod chooses from, where it may run."""

from typing import Any

import pytest
from ams_common.fit import DeviceMemory
from ams_common.memory_offers import MemoryOffer, best_fit, choices, size_of
from ams_common.resource.parse import parse_model_deployment
from ams_common.resource.spec import Spec

GIB = 1 << 30
EIGHT_BILLION: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "vocab_size": 151936, "max_position_embeddings": 40960, "tie_word_embeddings": False,
}  # fmt: skip
GROUPED = {"quant_method": "grouped", "version": 1, "bits": 4, "parameters": 8_190_000_000, "file_type": "Q4_0"}


def spec(quantization: str) -> Spec:
    return parse_model_deployment(
        {
            "apiVersion": "aimodelserver.io/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "m"},
            "spec": {"model": {"source": "hf://acme/m"}, "quantization": quantization},
        }
    ).spec


@pytest.mark.parametrize(
    ("quantization", "gpus", "expected"),
    [
        ("auto", False, ["4bit"]),
        ("4bit", False, ["4bit"]),
        ("8bit", False, ["4bit"]),
        ("none", False, ["none"]),
        ("auto", True, ["none", "4bit"]),
        ("4bit", True, ["none", "4bit"]),
        ("none", True, ["none"]),
    ],
)
def test_groups_of_a_gguf_file_stay_as_they_are_on_a_cpu(quantization: str, gpus: bool, expected: list[str]) -> None:
    size = size_of({**EIGHT_BILLION, "quantization_config": GROUPED}, 5 * GIB)
    assert [need.quantization for need in choices(spec(quantization), size, gpus=gpus)] == expected


@pytest.mark.parametrize(
    ("quantization", "expected"), [("auto", ["none", "8bit", "4bit"]), ("8bit", ["8bit"]), ("none", ["none"])]
)
def test_other_weights_are_quantized_as_asked_for(quantization: str, expected: list[str]) -> None:
    size = size_of(EIGHT_BILLION, 16 * GIB)
    assert [need.quantization for need in choices(spec(quantization), size, gpus=False)] == expected


def test_weights_that_come_quantized_have_one_choice() -> None:
    size = size_of({**EIGHT_BILLION, "quantization_config": {"quant_method": "gptq"}}, 5 * GIB)
    assert [need.quantization for need in choices(spec("4bit"), size, gpus=True)] == ["none"]


def test_a_gguf_file_is_planned_as_it_is_served_however_much_memory_there_is() -> None:
    size = size_of({**EIGHT_BILLION, "quantization_config": GROUPED}, 5 * GIB)
    offers = [MemoryOffer("small", DeviceMemory((), 9 * GIB)), MemoryOffer("large", DeviceMemory((), 900 * GIB))]
    offer, fit = best_fit(spec("auto"), size, offers)
    assert (offer.place, fit.fits, fit.chosen) == ("large", True, "4bit")
    assert fit.reason.startswith("5.0 GiB in GGUF Q4_0 + ")
    _, tight = best_fit(spec("none"), size, offers[:1])
    assert (tight.fits, tight.chosen) == (False, "none")
