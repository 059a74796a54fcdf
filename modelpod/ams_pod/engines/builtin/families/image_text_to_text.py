"""Image-text-to-text: any such model of transformers, by its own processor and its own forward pass.

Slower than the families that know their models: each request is computed apart. A model is checked against
transformers' `generate` when it is loaded, and not served where it differs.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoModelForImageTextToText, AutoProcessor

from ams_pod.engines.builtin.causal_lm import CausalLmEngine, build
from ams_pod.engines.builtin.load_request import LoadRequest
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.chat_format import chat_format
from ams_pod.engines.builtin.prompts.processor_prompts import ProcessorPrompts
from ams_pod.engines.builtin.recipe import Recipe
from ams_pod.engines.port import Prepared
from ams_pod.media.items import Image, content_part

# Of the architectures that are served most; another is imported when it is loaded.
PRELOAD = (
    "transformers.models.auto.processing_auto",
    "transformers.models.idefics3.modeling_idefics3",
    "transformers.models.idefics3.processing_idefics3",
    "transformers.models.gemma3.modeling_gemma3",
    "transformers.models.gemma3.processing_gemma3",
    "transformers.models.llava.modeling_llava",
    "transformers.models.llava.processing_llava",
    "torchvision.transforms.v2.functional",
)

_PROBE_CONTEXT = 1 << 20


def recipe(folder: Path) -> Recipe:
    processor = load_processor(AutoProcessor, folder)
    form = chat_format(processor)

    def prompts(context: int) -> ProcessorPrompts:
        return ProcessorPrompts(processor, form, context)

    return Recipe(
        family="image-text-to-text",
        model_class=AutoModelForImageTextToText,
        tokenizer=processor.tokenizer,
        prompts=prompts,
        separate_probes=lambda: _probes(prompts(_PROBE_CONTEXT)),
    )


def _probes(prompts: ProcessorPrompts) -> Sequence[Prepared]:
    """One with a small image, and one of text alone."""
    pixels = np.random.default_rng(0).integers(0, 255, (56, 56, 3), np.uint8)
    text = {"type": "text", "text": "What is this?"}
    contents = [[content_part(Image(pixels)), text], [text]]
    return [prompts.chat([{"role": "user", "content": content}]) for content in contents]


def open_family(request: LoadRequest) -> CausalLmEngine:
    return build(request, recipe(request.folder))
