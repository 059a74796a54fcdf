"""Model families, one row each: all that operator, gateway, command line and pod know of a family before it is loaded.

A family is a row here, a module of its name in `ams_pod.engines.builtin.families`, a manifest in examples/ and a tiny
checkpoint in the tests. The resource's enum, the command line's choices and the table in README come from the rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ams_common.image_text_architectures import IMAGE_TEXT_CHAT

Modality = Literal["text", "image", "audio", "video"]

_NAMED = 8  # architectures of a family that a sentence names; more are counted


class UnsupportedArchitecture(ValueError):
    """No family serves the model; the message is a sentence that says which architectures it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRow:
    """One family.

    `architectures` are names from config.json, and the first row that has a name serves it; `suffix` takes every name
    that ends so and is no family's.
    `models` and `takes` are its cells in the table of families, `example` its manifest in examples/.
    `model_type` is the older server's word: `type` in /admin/model_status, `model_type` in answers with details.
    `unquantized` are the modules that stay as they are in 8 and 4 bits, beside the output embeddings: towers lose more
    by quantization than their size is worth. `language_config` is where config.json describes the language model, as
    paths, the first that is there; `weights_prefix` what its tensors' names begin with where files hold other models.
    `needs_image`: no request without one. `answer_details`: /generate tells how an answer was made.
    """

    name: str
    models: str
    takes: str
    example: str
    modalities: frozenset[Modality]
    model_type: str
    architectures: frozenset[str] = frozenset()
    suffix: str | None = None
    unquantized: tuple[str, ...] = ()
    language_config: tuple[str, ...] = ()
    weights_prefix: str = ""
    needs_image: bool = False
    answer_details: bool = False


_ENCODERS = frozenset(
    f"{name}{kind}"
    for name in (
        "Bert", "Roberta", "XLMRoberta", "MPNet", "DistilBert", "ModernBert", "Electra", "Qwen2", "Qwen3", "Mistral",
        "Llama",
    )
    for kind in ("Model", "ForSequenceClassification")
) | {"Gemma3TextModel"}  # fmt: skip

FAMILIES: tuple[FamilyRow, ...] = (
    FamilyRow(
        name="text",
        models="any causal language model with a chat template; its reasoning is returned separately",
        takes="text",
        example="deepseek.yaml",
        modalities=frozenset({"text"}),
        model_type="text",
        suffix="ForCausalLM",  # Llama, Qwen2, Qwen3, Mistral, Gemma, SmolLM, Phi, GPT-2 …
        language_config=("text_config", "llm_config"),
    ),
    FamilyRow(
        name="vision-language",
        models="Qwen2.5-VL",
        takes="text, images, video",
        example="qwen-vl.yaml",
        modalities=frozenset({"text", "image", "video"}),
        model_type="vision-language",
        architectures=frozenset({"Qwen2_5_VLForConditionalGeneration"}),
        unquantized=("visual",),
        language_config=("text_config",),
    ),
    FamilyRow(
        name="qwen3-vl",  # as transformers calls this kind of model: prompt and tower differ from Qwen2.5-VL's
        models="Qwen3-VL",
        takes="text, images, video",
        example="qwen3-vl.yaml",
        modalities=frozenset({"text", "image", "video"}),
        model_type="vision-language",
        architectures=frozenset({"Qwen3VLForConditionalGeneration"}),
        unquantized=("visual",),
        language_config=("text_config",),
    ),
    FamilyRow(
        name="audio-language",
        models="Qwen2-Audio",
        takes="text, audio",
        example="qwen-audio.yaml",
        modalities=frozenset({"text", "audio"}),
        model_type="audio-language",
        architectures=frozenset({"Qwen2AudioForConditionalGeneration"}),
        unquantized=("audio_tower", "multi_modal_projector"),
        language_config=("text_config",),
    ),
    FamilyRow(
        name="omni",
        models="Qwen2.5-Omni (its thinker: answers in text)",
        takes="any mix of text, images, audio, video with sound",
        example="qwen-omni.yaml",
        modalities=frozenset({"text", "image", "audio", "video"}),
        model_type="qwen_omni",
        architectures=frozenset(
            {
                "Qwen2_5OmniModel",  # what the hub's config.json says
                "Qwen2_5OmniForConditionalGeneration",
                "Qwen2_5OmniThinkerForConditionalGeneration",
            }
        ),
        unquantized=("visual", "audio_tower"),
        language_config=("thinker_config.text_config", "text_config"),
        weights_prefix="thinker.",
        answer_details=True,
    ),
    FamilyRow(
        name="vqa",
        models="BLIP-VQA",
        takes="one image and a question",
        example="blip-vqa.yaml",
        modalities=frozenset({"text", "image"}),
        model_type="vqa",
        architectures=frozenset({"BlipForQuestionAnswering"}),
        unquantized=("vision_model", "text_decoder.cls"),
        language_config=("text_config",),
        needs_image=True,
    ),
    FamilyRow(
        name="embedding",
        models="embeddings (Qwen3-Embedding, E5, BGE, GTE, MiniLM and other encoders), and cross-encoders that rerank",
        takes="text",
        example="embedding.yaml",
        modalities=frozenset({"text"}),
        model_type="embedding",
        architectures=_ENCODERS,
        language_config=("text_config",),
    ),
    FamilyRow(
        name="image-text-to-text",
        models="any other chat model of transformers' task of this name: SmolVLM, Gemma 3, LLaVA, Llama 3.2 Vision …",
        takes="text, images",
        example="smolvlm.yaml",
        modalities=frozenset({"text", "image"}),
        model_type="vision-language",
        architectures=IMAGE_TEXT_CHAT,
        unquantized=("vision_tower", "vision_model", "visual", "multi_modal_projector", "connector", "aligner"),
        language_config=("text_config",),
    ),
)

BY_NAME: dict[str, FamilyRow] = {row.name: row for row in FAMILIES}

if TYPE_CHECKING:
    FamilyName = str
    FamilySetting = str
else:
    FamilyName = Literal[tuple(BY_NAME)]
    FamilySetting = Literal[("auto", *BY_NAME)]


def family_of(architectures: Sequence[str]) -> FamilyRow:
    """The family for the `architectures` of a config.json; UnsupportedArchitecture when none serves it."""
    for architecture in architectures:
        if (row := _serving(architecture)) is not None:
            return row
    if not architectures:
        raise UnsupportedArchitecture("config.json names no architectures; set spec.model.family")
    known = {f"*{row.suffix}" for row in FAMILIES if row.suffix is not None}
    known |= {name for row in FAMILIES if len(row.architectures) <= _NAMED for name in row.architectures}
    counted = [f"{len(row.architectures)} of {row.name}" for row in FAMILIES if len(row.architectures) > _NAMED]
    raise UnsupportedArchitecture(
        f"{', '.join(architectures)} is not supported; supported are {', '.join([*sorted(known), *counted])}"
    )


def modalities_of(family: str) -> tuple[Modality, ...]:
    """What the family takes, in alphabetical order."""
    return tuple(sorted(BY_NAME[family].modalities))


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model; all of it where no family's path is there."""
    paths = dict.fromkeys(path for row in FAMILIES for path in row.language_config)
    for path in sorted(paths, key=lambda path: path.count("."), reverse=True):
        part: Any = config
        for name in path.split("."):
            part = part.get(name) if isinstance(part, Mapping) else None
        if isinstance(part, Mapping):
            return part
    return config


def families_table() -> str:
    """The rows as a Markdown table."""
    lines = ["| family | models | takes | example |", "|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.models} | {row.takes} | [{row.example}](examples/{row.example}) |" for row in FAMILIES
    ]
    return "\n".join(lines) + "\n"


def _serving(architecture: str) -> FamilyRow | None:
    """The family that names the architecture, or the one that takes all of its suffix."""
    for row in FAMILIES:
        if architecture in row.architectures:
            return row
    for row in FAMILIES:
        if row.suffix is not None and architecture.endswith(row.suffix):
            return row
    return None
