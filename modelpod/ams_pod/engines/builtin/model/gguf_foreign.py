"""GGUF files of architectures that transformers reads: what it passes over is set as well, or the file is refused."""

from collections.abc import Mapping
from typing import Any

from ams_common.printable import printable

from ams_pod.engines.builtin.model.gguf_file import GgufFile
from ams_pod.engines.builtin.model.gguf_rope import READ as READ_OF_ROPE
from ams_pod.engines.builtin.model.gguf_rope import rope_parameters
from ams_pod.engines.builtin.model.gguf_settings import NotComputed, check_settings, refusal, settings_of, told

# Attributes of a configuration, one of which means the same as the setting.
_ATTRIBUTES = {
    "attention.key_length": ("head_dim",),
    "attention.layer_norm_epsilon": ("layer_norm_epsilon", "layer_norm_eps", "norm_epsilon", "norm_eps"),
    "attention.sliding_window": ("sliding_window",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_feed_forward_length": ("shared_expert_intermediate_size",),
    "expert_weights_norm": ("norm_topk_prob",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "logit_scale": ("logit_scale",),
    "use_parallel_residual": ("use_parallel_residual",),
}
# What the shapes of the tensors show, or limits without being computed with.
_SHOWN = frozenset({"context_length", "feed_forward_length", "vocab_size"})
_KEPT_OF_ROPE = ("partial_rotary_factor", "mrope_section", "mrope_interleaved", "truncate")
# Gemma's largest of two generations has another attention scale, by its number of layers, as llama.cpp tells it.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3": 62}


def read_config(file: GgufFile) -> Any:
    """transformers' configuration with all that the file says. NotComputed for the rest; else as transformers."""
    from transformers import AutoConfig, PreTrainedConfig

    architecture = str(file.metadata.get("general.architecture"))
    settings = settings_of(file.metadata, architecture)
    found: dict[str, Any] = PreTrainedConfig.get_config_dict(file.path.parent, gguf_file=file.path.name)[0]
    found["tie_word_embeddings"] = not any(tensor.name == "output.weight" for tensor in file.tensors)
    config: Any = AutoConfig.for_model(**found)
    heads = getattr(config, "num_attention_heads", None) or 1
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    context = getattr(config, "max_position_embeddings", None) or 1 << 40
    read = _read_by_transformers(file, found) | _SHOWN
    attributes = {
        name: attribute
        for name, attribute in ((name, _attribute(config, name)) for name in settings.keys() - read)
        if attribute is not None
    }
    changes = {attribute: settings[name] for name, attribute in attributes.items()}
    if type(given := changes.get("head_dim")) is int and given > 0:
        head = given
    if architecture in _SCALED_BY_WIDTH:
        by_width = found.get("num_hidden_layers") == _SCALED_BY_WIDTH[architecture]
        changes["query_pre_attn_scalar"] = config.hidden_size // heads if by_width else head
    for name, own in (("attention.value_length", head), ("attention.head_count_kv", heads)):
        if name not in read and settings.get(name) == own:
            read |= {name}
    if (rope := getattr(config, "rope_parameters", None)) is not None:
        read |= READ_OF_ROPE | _check_turned(settings, rope, head, read)
        changes["rope_parameters"] = _rope(architecture, settings, rope, head, context)
    check_settings(settings, read | attributes.keys(), head=head, context=context)
    config = AutoConfig.for_model(**{**found, **changes})
    for name, attribute in attributes.items():
        if getattr(config, attribute) != settings[name]:
            raise refusal(name, settings[name])
    return config


def check_tensors(file: GgufFile, config: Any) -> None:
    """NotComputed for a tensor that the model has no place for, which transformers passes over."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    architecture = file.metadata.get("general.architecture")
    if architecture in GGUF_CONFIG_ARCHS:
        return  # these are loaded by their names, and those that are left over are told
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config)
    processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=config.to_dict())
    places = get_gguf_hf_weights_map(model, processor)
    for name in sorted(tensor.name for tensor in file.tensors):
        if name not in places and name.rpartition(".")[0] not in places:  # experts have names without an ending
            raise NotComputed(f"its tensor {printable(name, 80)} isn't computed with here")


def _attribute(config: Any, setting: str) -> str | None:
    return next((name for name in _ATTRIBUTES.get(setting, ()) if hasattr(config, name)), None)


def _read_by_transformers(file: GgufFile, found: Mapping[str, Any]) -> frozenset[str]:
    """The settings that transformers makes its configuration of."""
    from transformers.integrations import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    architecture = str(file.metadata.get("general.architecture"))
    if architecture in GGUF_CONFIG_ARCHS:
        noting = _Noting({**file.metadata, "tokenizer.ggml.tokens": 0})
        GGUF_CONFIG_ARCHS[architecture](noting, tuple(tensor.name for tensor in file.tensors))
        return frozenset(name.removeprefix(f"{architecture}.") for name in noting.read)
    kind = str(found.get("model_type"))
    mapping = GGUF_CONFIG_MAPPING.get(kind) or GGUF_CONFIG_MAPPING.get(kind.removesuffix("_text")) or {}
    return frozenset(name for name, attribute in mapping.items() if attribute is not None)


class _Noting(dict[str, Any]):
    """Notes which names are asked for."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def _check_turned(
    settings: Mapping[str, Any], rope: Mapping[str, Any], head: int, read: frozenset[str]
) -> frozenset[str]:
    """NotComputed unless as many values of a head are turned as the file says."""
    name = "rope.dimension_count"
    if name in settings and name not in read:
        turned = int(head * rope.get("partial_rotary_factor", 1.0))
        if settings[name] != turned:
            raise refusal(name, settings[name])
    return frozenset({name})


def _rope(architecture: str, settings: Mapping[str, Any], rope: Mapping[str, Any], head: int, context: int) -> Any:
    """The configuration's `rope_parameters` with what the file says of them."""
    if "rope_theta" in rope:
        turned = int(head * rope.get("partial_rotary_factor", 1.0))
        said = rope_parameters(settings, head=turned, context=context)
        return {**{name: rope[name] for name in _KEPT_OF_ROPE if name in rope}, **said}
    whole = rope.get("full_attention")
    if not isinstance(whole, Mapping) or "rope_theta" not in whole:
        raise NotComputed(f"how its architecture {told(architecture)} turns positions isn't known here")
    said = rope_parameters(settings, head=head, context=context, theta=whole["rope_theta"])
    if architecture == "gemma3":  # its layers with a sliding window are never scaled
        return {**rope, "full_attention": said}
    if said != {"rope_type": "default", "rope_theta": whole["rope_theta"]}:
        raise NotComputed(f"how its architecture {told(architecture)} turns positions isn't known here")
    return dict(rope)
