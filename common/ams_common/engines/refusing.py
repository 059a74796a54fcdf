"""What fields ask for that engines of other makes can't do: sentences that begin with the field's path. Pure."""

from collections.abc import Callable, Iterator

from ams_common.engines.wishes import (
    UNKNOWN,
    ModelFacts,
    cache_bytes,
    engine_resources,
    family_name,
    is_gguf_source,
    wants_gpu,
)
from ams_common.resource.spec import LimitsSpec, ModelDeployment

Refuses = Callable[[ModelDeployment, ModelFacts], Iterator[str]]

_DEFAULT_FRAMES = LimitsSpec().video_frames
_OURS_ALONE = ("vqa",)  # families
_STANDARD_FALLBACKS: tuple[list[str], ...] = (["cpu", "text-only", "simplified"], [])


def refusals(rules: tuple[Refuses, ...], resource: ModelDeployment, facts: ModelFacts = UNKNOWN) -> list[str]:
    """All sentences of these rules; none: it can be served so."""
    return [sentence for rule in rules for sentence in rule(resource, facts)]


def families(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    name = family_name(resource.spec, facts)
    if name in _OURS_ALONE:
        yield f"spec.model.family: {name} is served by the builtin engine alone"


def nodes(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.engine.nodes > 1:
        yield "spec.engine.nodes: this engine computes on one node; several are for vllm and sglang"


def nodes_without_gpus(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    """What is divided among nodes is divided by their GPUs."""
    spec = resource.spec
    if spec.engine.nodes > 1 and not wants_gpu(engine_resources(spec)):
        place = "spec.engine.resources" if spec.engine.resources is not None else "spec.resources"
        yield (
            f"spec.engine.nodes: several nodes share a model by their GPUs; name those of each in {place}.limits, as in"
            " nvidia.com/gpu: 8"
        )


def text_only(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    name = family_name(resource.spec, facts)
    if name is not None and name not in ("text", "embedding", *_OURS_ALONE):
        yield f"spec.model.family: {name} takes more than text, which this engine isn't started for"


def fallbacks(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    """Those that every resource has are no wish of anybody."""
    if resource.spec.fallbacks not in _STANDARD_FALLBACKS:
        yield (
            "spec.fallbacks: only the builtin engine falls back when memory runs out; leave the field out, or set it to"
            " []"
        )


def quantization(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    wanted = resource.spec.quantization
    if wanted in ("8bit", "4bit"):
        yield (
            f"spec.quantization: {wanted} is made by the builtin engine alone; take weights that come quantized (AWQ,"
            " GPTQ, FP8, GGUF), or ask the engine by spec.engine.args"
        )


def folder(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if _is_gguf(resource):
        yield "spec.model.source: this engine takes a folder of safetensors; a GGUF file is for llamacpp or builtin"


def gguf(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if not _is_gguf(resource):
        yield "spec.model.source: llamacpp takes a GGUF file; name one, as in ?file=model-Q4_K_M.gguf"


def own_precision(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.precision != "auto":
        yield "spec.precision: a GGUF file has its own; leave it at auto"


def precision(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.precision != "auto":
        yield "spec.precision: a custom engine isn't told; ask it by spec.engine.args"


def custom_max_memory(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.max_memory:
        yield "spec.maxMemory: a custom engine isn't told; ask it by spec.engine.args"


def custom_limits(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    limits = resource.spec.limits
    for name, value in (("prefixCacheTokens", limits.prefix_cache_tokens), ("imagePixels", limits.image_pixels)):
        if value != "auto":
            yield f"spec.limits.{name}: a custom engine isn't told; ask it by spec.engine.args"


def prefix_cache(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    tokens = resource.spec.limits.prefix_cache_tokens
    if tokens not in ("auto", 0):
        yield "spec.limits.prefixCacheTokens: this engine bounds it by memory; set it to auto, or to 0 for none"


def image_pixels(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.limits.image_pixels != "auto":
        yield "spec.limits.imagePixels: this engine takes no such limit for this family; set it to auto"


def qwen_image_pixels(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    """Processors of Qwen's models have such a bound; those of others have other ones, or none."""
    if family_name(resource.spec, facts) not in ("vision-language", "qwen3-vl", "omni"):
        yield from image_pixels(resource, facts)


def video_frames(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    frames = resource.spec.limits.video_frames
    if frames != _DEFAULT_FRAMES:
        yield f"spec.limits.videoFrames: this engine takes no number of frames; {frames} can't be asked of it"


def no_max_memory(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.max_memory:
        yield (
            "spec.maxMemory: this engine takes no limit in bytes; bound it by its own argument in spec.engine.args"
            " (sglang: --mem-fraction-static, llamacpp: --n-gpu-layers), or by spec.engine.resources"
        )


def max_memory(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    """For engines that take the bytes of keys and values: what is left beside the weights."""
    spec = resource.spec
    if not spec.max_memory:
        return
    on_gpu = wants_gpu(engine_resources(spec))
    others = [device for device in spec.max_memory if device.isdigit() != on_gpu or device == "disk"]
    for device in others:
        why = "a GPU computes; bound memory by spec.engine.resources.limits" if on_gpu else "no GPU is asked for"
        yield f"spec.maxMemory.{device}: can't be told to this engine, as {why}"
    if others:
        return
    if (left := cache_bytes(spec, facts)) is None:
        yield (
            "spec.maxMemory: what it leaves for the cache isn't known, as the size of the weights isn't; set"
            " --kv-cache-memory-bytes or --gpu-memory-utilization in spec.engine.args instead"
        )
    elif left < _LEAST_CACHE:
        yield "spec.maxMemory: the weights leave no memory for the cache; raise it"


def peft_adapters(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    yield from _generates(resource, facts)
    for number, adapter in enumerate(resource.spec.adapters):
        if is_gguf_source(adapter.source):
            yield (
                f"spec.adapters[{number}].source: this engine takes a folder as PEFT writes it (adapter_config.json and"
                " adapter_model.safetensors); a GGUF file is for llamacpp"
            )


def _generates(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.adapters and family_name(resource.spec, facts) == "embedding":
        yield "spec.adapters: they are for models that generate; merge one into an embedding model's weights"


def gguf_adapters(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    yield from _generates(resource, facts)
    for number, adapter in enumerate(resource.spec.adapters):
        if not is_gguf_source(adapter.source):
            yield (
                f"spec.adapters[{number}].source: llamacpp takes a GGUF file, as llama.cpp's convert_lora_to_gguf.py"
                " makes it; name one, as in ?file=adapter.gguf"
            )


def custom_adapters(resource: ModelDeployment, facts: ModelFacts) -> Iterator[str]:
    if resource.spec.adapters:
        yield "spec.adapters: nobody knows how a custom engine is asked for an adapter; take vllm, sglang or llamacpp"


def builtin(resource: ModelDeployment, reason: str) -> list[str]:
    """What the builtin engine can't do of what other engines can; `reason` is why it was chosen."""
    if not resource.spec.adapters:
        return []
    why = "" if resource.spec.engine.name == "builtin" else f" (it was chosen because {reason})"
    return [f"spec.adapters: the builtin engine applies none{why}; name vllm, sglang or llamacpp in spec.engine.name"]


def _is_gguf(resource: ModelDeployment) -> bool:
    return is_gguf_source(resource.spec.model.source)


_LEAST_CACHE = 64 << 20
