"""Text: any causal language model, with or without a chat template."""

from pathlib import Path

import torch
from ams_common.pod_settings import ServeSettings
from transformers import AutoModelForCausalLM, AutoTokenizer

from ams_pod.runtime.decoding import DecodingRuntime, Load, Recipe, build
from ams_pod.runtime.interface import Publish, ReportPhase
from ams_pod.runtime.text import TextPrompts
from ams_pod.runtime.weights import load_processor


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
