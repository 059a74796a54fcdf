"""The names of transformers' image-text models that are written down are those of the installed transformers."""

import transformers
from ams_common.image_text_architectures import IMAGE_TEXT, IMAGE_TEXT_CHAT, NO_CHAT, TRANSFORMERS
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES


def test_they_are_those_of_the_installed_transformers() -> None:
    """An older one may lack some."""
    installed = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values())
    assert installed - IMAGE_TEXT == set(), "new: write them into image_text_architectures.py"
    if _numbers(transformers.__version__) >= _numbers(TRANSFORMERS):
        assert IMAGE_TEXT - installed == set(), "gone from transformers"


def test_what_takes_no_chat_is_named_as_transformers_names_it() -> None:
    assert NO_CHAT <= IMAGE_TEXT
    assert not [name for name in IMAGE_TEXT_CHAT if name in NO_CHAT or name.endswith("ForCausalLM")]


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2]]
