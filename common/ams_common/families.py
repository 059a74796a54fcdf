"""Model families: which architectures each one serves and what it takes. Adding a family is one row here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FamilyName = Literal["text", "vision-language", "audio-language", "omni", "vqa"]
Modality = Literal["text", "image", "audio", "video"]


class UnsupportedArchitecture(ValueError):
    """No family serves the model; the message is a sentence that says which architectures it has."""


@dataclass(frozen=True, slots=True)
class FamilyRow:
    """One family. `architectures` are names from config.json; `suffix` takes every name that ends so.

    `model_type` is the older server's word: `type` in /admin/model_status, `model_type` in omni's answers.
    """

    name: FamilyName
    modalities: frozenset[Modality]
    model_type: str
    architectures: frozenset[str] = frozenset()
    suffix: str | None = None

    def serves(self, architecture: str) -> bool:
        return architecture in self.architectures or (self.suffix is not None and architecture.endswith(self.suffix))


FAMILIES: tuple[FamilyRow, ...] = (
    FamilyRow(
        "vision-language",
        frozenset({"text", "image", "video"}),
        "vision-language",
        frozenset({"Qwen2_5_VLForConditionalGeneration"}),
    ),
    FamilyRow(
        "audio-language",
        frozenset({"text", "audio"}),
        "audio-language",
        frozenset({"Qwen2AudioForConditionalGeneration"}),
    ),
    FamilyRow(
        "omni",
        frozenset({"text", "image", "audio", "video"}),
        "qwen_omni",
        frozenset(
            {
                "Qwen2_5OmniModel",  # what the hub's config.json says
                "Qwen2_5OmniForConditionalGeneration",
                "Qwen2_5OmniThinkerForConditionalGeneration",
            }
        ),
    ),
    FamilyRow(
        "vqa",
        frozenset({"text", "image"}),
        "vqa",
        frozenset({"BlipForQuestionAnswering"}),
    ),
    # Llama, Qwen2, Qwen3, Mistral, Gemma, SmolLM, Phi, GPT-2 … name their causal language model alike.
    FamilyRow("text", frozenset({"text"}), "text", suffix="ForCausalLM"),
)

BY_NAME: dict[str, FamilyRow] = {row.name: row for row in FAMILIES}


def family_of(architectures: Sequence[str]) -> FamilyRow:
    """The family for the `architectures` of a config.json; UnsupportedArchitecture when none serves it."""
    for architecture in architectures:
        for row in FAMILIES:
            if row.serves(architecture):
                return row
    if not architectures:
        raise UnsupportedArchitecture("config.json names no architectures; set spec.model.family")
    known = sorted({name for row in FAMILIES for name in row.architectures} | {"*ForCausalLM"})
    raise UnsupportedArchitecture(f"{', '.join(architectures)} is not supported; supported are {', '.join(known)}")
