"""The settings of a GGUF file's architecture: each is read, changes nothing, or the file is refused by its name.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists them; what each means is what llama.cpp computes.
"""

import math
from collections.abc import Mapping, Set
from typing import Any

from ams_common.printable import printable

# What describes the file or its training, and not what is computed.
_INERT = frozenset({"tensor_data_layout", "rope.scaling.finetuned", "pooling_type", "classifier.output_labels"})
# Values that leave what is computed as it is.
_NEUTRAL: dict[str, tuple[float, ...]] = {
    "activation_sparsity_scale": (0,),
    "attention.causal": (1,),
    "attention.clamp_kqv": (0,),
    "attention.head_count": (0,),
    "attention.head_count_kv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.output_scale": (0, 1),
    "attention.scale": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.sliding_window": (0,),
    "attention.temperature_length": (0,),
    "attention.temperature_scale": (0,),
    "attn_logit_softcapping": (0,),
    "embedding_scale": (0, 1),
    "expert_count": (0,),
    "expert_gating_func": (0,),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0,),
    "expert_used_count": (0,),
    "expert_weights_norm": (0,),
    "expert_weights_scale": (0, 1),
    "final_logit_softcapping": (0,),
    "interleave_moe_layer_step": (0,),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "nextn_predict_layers": (0,),
    "residual_scale": (0, 1),
    "router_logit_softcapping": (0,),
    "ssm.dt_b_c_rms": (0,),
    "use_parallel_residual": (0,),
}


class NotComputed(Exception):
    """What the file asks for isn't computed here; the message is a clause that names it."""


class NotWhole(NotComputed):
    """The file holds no whole model, so that nothing computes it."""


def why_not_converted(name: str, reason: NotComputed) -> str:
    """Why the file called `name` isn't converted, and what to take instead, in sentences."""
    if isinstance(reason, NotWhole):
        advice = "Take a file of the whole model,"
    else:
        advice = "Take the engine llamacpp, which reads the file itself,"
    return f"{name} can't be converted: {reason}. {advice} or a repository of safetensors."


def settings_of(metadata: Mapping[str, Any], architecture: str) -> dict[str, Any]:
    """The architecture's settings by their names without its own. NotWhole."""
    if (parts := metadata.get("split.count", 0)) not in (0, 1):
        raise NotWhole(f"it is one of {told(parts)} parts of a model (split.count)")
    if (kind := metadata.get("general.type", "model")) != "model":
        raise NotWhole(f"it holds no model (general.type is {told(kind)})")
    prefix = f"{architecture}."
    return {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}


def check_settings(settings: Mapping[str, Any], read: Set[str], *, head: int, context: int) -> None:
    """NotComputed if a setting that isn't `read` changes what is computed, or may.

    `head`: values of a head; `context`: tokens that the model takes.
    """
    for name, value in sorted(settings.items()):
        if name not in read and name not in _INERT and not _changes_nothing(name, value, head, context):
            raise refusal(name, value)


def refusal(name: str, value: Any) -> NotComputed:
    return NotComputed(f"its setting {printable(name, 80)} is {told(value)}, which isn't computed here")


def number(settings: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number of the settings. NotComputed if it is something else."""
    value = settings.get(name, default)
    if type(value) not in (int, float) or not math.isfinite(value):
        raise refusal(name, value)
    return float(value)


def told(value: Any) -> str:
    """A value of the metadata in a message: it comes from a file of somebody else's."""
    return printable(f"{value:.6g}" if type(value) is float else repr(value), 60)


def _changes_nothing(name: str, value: Any, head: int, context: int) -> bool:
    if type(value) not in (int, float, bool):
        return False
    if name == "attention.scale" and math.isclose(value, head**-0.5, rel_tol=1e-5):
        return True
    if name == "attention.sliding_window" and value >= context:
        return True
    return value in _NEUTRAL.get(name, ())
