"""Towers at a CPU's speed, where they are in bfloat16 and the compiled kernels are there.

Elsewhere a tower is what transformers makes of it: on a GPU, in float32, and where the kernels are off.
"""

import logging

import torch
from torch import nn

from ams_pod.engines.builtin import compiled
from ams_pod.engines.builtin.towers.attention import replace_attention
from ams_pod.engines.builtin.towers.packed import pack, packing_works
from ams_pod.engines.builtin.towers.spans import SpanAttention

log = logging.getLogger(__name__)


def why_not(tower: nn.Module) -> str:
    """Why a tower stays as it is; empty where it needn't."""
    for parameter in tower.parameters():
        if parameter.device.type != "cpu":
            return f"it is on {parameter.device}"
        if parameter.is_floating_point() and parameter.dtype != torch.bfloat16:
            return f"it is in {parameter.dtype}"
    if reason := compiled.unavailable():
        return reason
    return "" if packing_works() else "this torch packs no weights in bfloat16"


def make_native(tower: nn.Module) -> bool:
    """Whether a tower's linear layers are packed now, and its attention is the kernels'. It keeps no other weights."""
    if reason := why_not(tower):
        log.debug("%s runs on torch's operators: %s", type(tower).__name__, reason)
        return False
    pack(tower)
    if not has_matrix_units():
        replace_attention(tower, SpanAttention(compiled.load()))
    return True


def has_matrix_units() -> bool:
    """Whether the processor has AMX, which torch's own attention multiplies with and the kernels don't."""
    return bool(torch.cpu._is_amx_tile_supported())
