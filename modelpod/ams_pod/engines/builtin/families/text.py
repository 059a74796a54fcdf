"""Text: any causal language model, with or without a chat template."""

from pathlib import Path

from transformers import AutoModelForCausalLM

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.prompts.folder import load_declared_tokenizer
from ams_pod.engines.prompts.text import TextPrompts

# Of the architectures that are served most; another is imported when it is loaded.
PRELOAD = (
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
    "transformers.models.qwen2.tokenization_qwen2",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.mistral.modeling_mistral",
)


def recipe(folder: Path) -> Recipe:
    tokenizer = load_declared_tokenizer(folder)
    return Recipe(
        family="text",
        model_class=AutoModelForCausalLM,
        tokenizer=tokenizer,
        prompts=lambda context: TextPrompts(tokenizer, context),
    )


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
