"""Which family serves which architecture."""

from typing import get_args

import pytest
from ams_common.families import BY_NAME, FAMILIES, FamilySetting, UnsupportedArchitecture, family_of


@pytest.mark.parametrize(
    ("architecture", "family"),
    [
        ("Qwen3ForCausalLM", "text"),  # deepseek-ai/DeepSeek-R1-0528-Qwen3-8B
        ("Qwen2_5_VLForConditionalGeneration", "vision-language"),
        ("Qwen3VLForConditionalGeneration", "qwen3-vl"),
        ("Qwen2AudioForConditionalGeneration", "audio-language"),
        ("Qwen2_5OmniModel", "omni"),
        ("Qwen2_5OmniForConditionalGeneration", "omni"),
        ("Qwen2_5OmniThinkerForConditionalGeneration", "omni"),
        ("BlipForQuestionAnswering", "vqa"),
        ("LlamaForCausalLM", "text"),
        ("Qwen2ForCausalLM", "text"),
        ("MistralForCausalLM", "text"),
        ("Gemma3ForCausalLM", "text"),
        ("SmolLM3ForCausalLM", "text"),
    ],
)
def test_an_architecture_has_its_family(architecture: str, family: str) -> None:
    assert family_of([architecture]).name == family


def test_the_first_architecture_that_is_served_counts() -> None:
    assert family_of(["Unheard", "LlamaForCausalLM"]).name == "text"


def test_an_architecture_that_is_not_served_is_named_with_those_that_are() -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        family_of(["BertForMaskedLM"])
    words = str(caught.value)
    assert words.startswith("BertForMaskedLM is not supported; supported are *ForCausalLM, BlipForQuestionAnswering")


def test_a_config_without_architectures_says_what_to_do() -> None:
    with pytest.raises(UnsupportedArchitecture, match=r"set spec\.model\.family"):
        family_of([])


def test_every_family_of_the_resource_has_a_row_and_takes_text() -> None:
    assert {*BY_NAME, "auto"} == set(get_args(FamilySetting))
    assert all("text" in row.modalities for row in FAMILIES)


def test_modalities() -> None:
    assert BY_NAME["text"].modalities == {"text"}
    assert BY_NAME["vision-language"].modalities == {"text", "image", "video"}
    assert BY_NAME["audio-language"].modalities == {"text", "audio"}
    assert BY_NAME["omni"].modalities == {"text", "image", "audio", "video"}
    assert BY_NAME["vqa"].modalities == {"text", "image"}
