"""Text: any causal language model, with or without a chat template."""

from pathlib import Path

import torch
from ams_common.pod_settings import ServeSettings
from transformers import AutoModelForCausalLM, AutoTokenizer

from ams_pod.engines.builtin.causal_lm import DecodingRuntime, Load, Recipe, build
from ams_pod.engines.builtin.model.weights import load_processor
from ams_pod.engines.builtin.prompts.text import TextPrompts
from ams_pod.engines.port import Publish, ReportPhase


def recipe(folder: Path) -> Recipe:
    tokenizer = load_processor(AutoTokenizer, folder)
    return Recipe(
        family="text",
        model_class=AutoModelForCausalLM,
        tokenizer=tokenizer,
        prompts=lambda context: TextPrompts(tokenizer, context),
    )


def load(
    folder: Path, settings: ServeSettings, device: str, dtype: torch.dtype, publish: Publish, report: ReportPhase
) -> DecodingRuntime:
    return build(Load(folder, settings, device, dtype, publish, report), recipe(folder))
