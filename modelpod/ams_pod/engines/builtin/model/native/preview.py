"""Whether the compiled kernels would compute a model, before its weights are read."""

import logging
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.model.native.layers import why_not_of_shape
from ams_pod.engines.builtin.model.stack import UnsupportedStack, find_stack

log = logging.getLogger(__name__)

_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError, UnsupportedStack)


def kernels_compute(folder: Path) -> bool:
    """Whether they compute the causal language model in `folder` in bfloat16, as its config.json describes it."""
    if compiled.load() is None:
        return False
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        reason = why_not_of_shape(find_stack(model))
    except _FAULTS as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    if reason:
        log.info("the kernels don't compute this model: %s", reason)
    return not reason
